"""Whether other programs load an adapter file whole: loaded in diffusers, compared with what ComfyUI and A1111 match.

diffusers is asked itself: the file is loaded as its users load it, and every live layer is compared with the file. What
ComfyUI and A1111 do is modelled (see `naming`): the names that they match, and what they do with a pair that is not
whole or does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import RequestError, RunError
from .apply import attach, landed, weights
from .artifact import Artifact
from .factors import Reading, read
from .naming import a1111_map, comfyui_map, targets

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from ..models.latent_diffusion import LatentDiffusion

_ADAPTER = "verified"


@dataclass(frozen=True)
class Landing:
    """What of a file a program takes.

    Attributes:
        landed, total: modules that get exactly what the file says, of those that the file names.
        problems: a clause each.
    """

    landed: int
    total: int
    problems: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return self.landed == self.total > 0 and not self.problems


@dataclass(frozen=True)
class Verification:
    """What of a LoRA file diffusers, ComfyUI and A1111 take.

    Attributes:
        path: the file.
        naming: `kohya` or `diffusers`.
        diffusers, comfyui, a1111: by program.
    """

    path: Path
    naming: str
    diffusers: Landing
    comfyui: Landing
    a1111: Landing

    @property
    def programs(self) -> dict[str, Landing]:
        """Those that the file's naming is for: a file in diffusers' naming is not for ComfyUI and A1111."""
        every = {"diffusers": self.diffusers, "ComfyUI": self.comfyui, "A1111": self.a1111}
        return every if self.naming == "kohya" else {"diffusers": self.diffusers}

    @property
    def whole(self) -> bool:
        """Whether every program that the file is for takes all of it."""
        return all(landing.whole for landing in self.programs.values())


def verify(path: Path, base: LatentDiffusion) -> Verification:
    """Load a LoRA file into a base that has no adapter, and say what lands. The base is left as it was.

    Raises:
        RequestError: the file cannot be read, holds values that are not finite, or is not a LoRA.
    """
    artifact = Artifact.load(path)
    reading = read(artifact, base, path)
    common = list(reading.problems)
    if reading.factors and all(factors.empty for factors in reading.factors.values()):
        common.append("the adapter changes nothing: all its products are zero")
    rules = (_comfyui, _a1111) if reading.naming == "kohya" else (_comfyui_dotted, _a1111_dotted)
    found = [_diffusers(path, reading, base), *(rule(reading, base) for rule in rules)]
    return Verification(
        path, reading.naming, *(Landing(n, len(reading.modules), (*common, *problems)) for n, problems in found)
    )


def _diffusers(path: Path, reading: Reading, base: LatentDiffusion) -> tuple[int, list[str]]:
    """Modules that land in diffusers, and what is wrong there."""
    pipe = base.pipeline()
    if weights(pipe):
        raise ValueError("verify needs a base without adapters")
    try:
        attach(pipe, path, _ADAPTER)
        there = landed(pipe, reading.factors, _ADAPTER)
    except Exception as error:  # whatever diffusers or peft raises here, the file is refused
        return 0, [f"diffusers refuses it ({type(error).__name__}: {' '.join(str(error).split())[:200]})"]
    finally:
        pipe.unload_lora_weights()
    missing = [name for name in reading.factors if name not in there]
    return len(there), [f"`{name}` has other values in diffusers than in the file" for name in missing]


def _comfyui(reading: Reading, base: LatentDiffusion) -> tuple[int, list[str]]:
    """ComfyUI takes what it matches; an up matrix alone stops it, and what does not fit is only logged."""
    names = comfyui_map(base)
    for module, group in reading.tensors.items():
        if module in names and "up" in group and "down" not in group:
            return 0, [f"ComfyUI stops at `{module}`, which has no down matrix"]
    return _matched(reading, names, "ComfyUI")


def _a1111(reading: Reading, base: LatentDiffusion) -> tuple[int, list[str]]:
    """A1111 takes what it matches, and nothing of a file in which a module that it matches has half a pair."""
    names = a1111_map(base)
    for module, group in reading.tensors.items():
        if module in names and not {"up", "down"} <= group.keys():
            return 0, [f"A1111 drops the whole file because `{module}` has not both matrices"]
    return _matched(reading, names, "A1111")


def _matched(reading: Reading, names: Mapping[str, str], program: str) -> tuple[int, list[str]]:
    there = [module for module in reading.modules if names.get(module) in reading.factors]
    unknown = [module for module, name in reading.modules.items() if name and module not in names]
    return len(there), [f"{program} has no match for `{module}`" for module in unknown]


def _comfyui_dotted(reading: Reading, base: LatentDiffusion) -> tuple[int, list[str]]:
    """diffusers' names in ComfyUI: all but the attentions' matrices match, and with no alpha their scale is 1."""
    known = targets(base)
    there = 0
    for name, factors in reading.factors.items():
        target = known[name]
        matches = target.kind in target.part.comfyui and ".to_" not in target.path
        there += matches and reading.modules.get(target.diffusers) == name and math.isclose(factors.scale, 1.0)
    short = ["ComfyUI takes diffusers' names in part; give it kohya's naming"]
    return there, short if there < len(reading.modules) else []


def _a1111_dotted(reading: Reading, base: LatentDiffusion) -> tuple[int, list[str]]:
    return 0, ["A1111 takes nothing of diffusers' names, which it splits at the first dot; give it kohya's naming"]


def prove(paths: list[Path], base: LatentDiffusion, prompt: str) -> list[str]:
    """Load the two files of a LoRA, kohya's and diffusers', into a base without adapters; a sentence for each proof.

    Raises:
        RunError: a file would load in part or with no effect, the two differ, or unloading leaves traces.
    """
    pipe = base.pipeline("ddim")
    before = _picture(pipe, base, prompt)
    sentences, shown = [], []
    for path in paths:
        sentences += _proved_whole(path, base)
        attach(pipe, path, _ADAPTER)
        shown.append(_picture(pipe, base, prompt))
        pipe.unload_lora_weights()
        if torch.equal(shown[-1], before):
            raise RunError(f"{path}: the adapter changes nothing; train longer, or with a higher --learning-rate.")
        if not torch.equal(_picture(pipe, base, prompt), before):
            raise RunError(f"{path}: unloading it from diffusers does not restore the base; report this as a fault.")
    apart = (shown[0] - shown[1]).abs().max().item()
    if not apart <= 1e-4 * max(1.0, before.abs().max().item()):
        raise RunError(f"{paths[0]} and {paths[1]} give different pictures (by {apart:.2g}); report this as a fault.")
    return [*sentences, "both namings give the same picture", "unloading restores the base exactly"]


def _proved_whole(path: Path, base: LatentDiffusion) -> list[str]:
    try:
        found = verify(path, base)
    except RequestError as error:  # our own file: the run has failed, not the request
        raise RunError(str(error)) from error
    for program, landing in found.programs.items():
        if not landing.whole:
            problem = landing.problems[0] if landing.problems else "its names do not match"
            raise RunError(f"{path}: {landing.landed} of {landing.total} modules land in {program}: {problem}.")
    count, naming = found.diffusers.total, found.naming
    sentences = [f"{2 * count} of {2 * count} tensors land in diffusers ({naming} names)"]
    also = [f"{count} of {count} modules land in ComfyUI and A1111 ({naming} names)"]
    return sentences + also if naming == "kohya" else sentences


@torch.no_grad()
def _picture(pipe: StableDiffusionPipeline, base: LatentDiffusion, prompt: str) -> Tensor:
    """Latents of a small picture: two steps of DDIM from one seed, (1, C, h, w)."""
    side = min(base.resolution, 4 * base.unit)
    return pipe(
        prompt, height=side, width=side, num_inference_steps=2, guidance_scale=1.0, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
