"""Proofs that the two files of an adapter work: loaded as programs load them, compared, and taken away again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import RequestError, RunError
from .apply import apply_adapter, attach
from .artifact import Artifact
from .verify import ADAPTER, Verification, verify

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..models.latent_diffusion import LatentDiffusion

_OTHERS = {  # kinds that kohya's naming holds as they are, and diffusers' in another form
    "dora": "A1111 divides by other norms than DoRA was trained with: use this file in ComfyUI, not there",
}


def prove(paths: list[Path], base: LatentDiffusion, prompt: str) -> list[str]:
    """Load the two files of an adapter, kohya's and diffusers', into a base without adapters; a sentence each proof.

    Raises:
        RunError: a file would load in part or with no effect, the two differ, or unloading leaves traces.
    """
    pipe = base.pipeline("ddim")
    before = picture(pipe, base, prompt)
    sentences: list[str] = []
    shown: list[Tensor] = []
    kinds: frozenset[str] = frozenset()
    for path in paths:
        found = _proved_whole(path, base)
        sentences, kinds = sentences + _sentences(found), kinds | found.kinds
        if "diffusers" in found.meant:
            attach(pipe, path, ADAPTER)
        else:
            apply_adapter(pipe, path, 1.0, ADAPTER)
        shown.append(picture(pipe, base, prompt))
        pipe.unload_lora_weights()
        if torch.equal(shown[-1], before):
            raise RunError(f"{path}: the adapter changes nothing; train longer, or with a higher --learning-rate.")
        if not torch.equal(picture(pipe, base, prompt), before):
            raise RunError(f"{path}: unloading it from diffusers does not restore the base; report this as a fault.")
    apart = (shown[0] - shown[1]).abs().max().item()
    if not apart <= _tolerance(paths[0], kinds) * max(1.0, before.abs().max().item()):
        raise RunError(f"{paths[0]} and {paths[1]} give different pictures (by {apart:.2g}); report this as a fault.")
    return [*sentences, "both namings give the same picture", "unloading restores the base exactly"]


def _tolerance(path: Path, kinds: frozenset[str]) -> float:
    """How far the two files' pictures may be apart: but for a plain LoRA they hold different numbers, rounded apart."""
    halved = [t.dtype for t in Artifact.load(path).tensors.values() if t.dtype in (torch.float16, torch.bfloat16)]
    if kinds <= {"lora"}:
        return 1e-4
    return 32 * torch.finfo(halved[0]).eps if halved else 1e-3


def _proved_whole(path: Path, base: LatentDiffusion) -> Verification:
    try:
        found = verify(path, base)
    except RequestError as error:  # our own file: the run has failed, not the request
        raise RunError(str(error)) from error
    for program, landing in found.programs.items():
        if not landing.whole and program != "A1111":
            problem = landing.problems[0] if landing.problems else "its names do not match"
            raise RunError(f"{path}: {landing.landed} of {landing.total} modules land in {program}: {problem}.")
    return found


def _sentences(found: Verification) -> list[str]:
    """What was proved of a file, and where it is not for use."""
    count = found.landings["ComfyUI"].total
    names = f"({found.naming} names)"
    others = [program for program in found.meant if program != "diffusers" and found.landings[program].whole]
    told = []
    if "diffusers" in found.meant:
        tensors = count * (3 if "dora" in found.kinds else 2)
        told.append(f"{tensors} of {tensors} tensors land in diffusers {names}")
    if others:
        told.append(f"{count} of {count} modules land in {' and '.join(others)} {names}")
    short = found.landings["A1111"]
    if "A1111" in found.meant and not short.whole:  # its formulas know the published architectures, not every base
        told.append(f"A1111 takes {short.landed} of {short.total} modules: {'; '.join(short.problems[:1])}")
    if found.naming == "kohya":
        told += [sentence for kind, sentence in _OTHERS.items() if kind in found.kinds]
    return told


@torch.no_grad()
def picture(pipe: DiffusionPipeline, base: LatentDiffusion, prompt: str) -> Tensor:
    """Latents of a small picture: two steps of DDIM from one seed, (1, C, h, w)."""
    side = min(base.resolution, 4 * base.unit)
    return pipe(
        prompt, height=side, width=side, num_inference_steps=2, guidance_scale=1.0, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
