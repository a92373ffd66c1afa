"""A control network as a diffusers folder, `controlnet/` or `t2i_adapter/`, with a condition to try it with.

The header of its safetensors file says which condition it draws after (`tuner.condition`), and which base it is for.
"""

from __future__ import annotations

import inspect
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..adapters.artifact import Artifact
from ..errors import RunError
from ..files import replacing
from .control import ControlNetwork
from .control_loading import CONDITIONS, GIVEN, WEIGHTS, load_control
from .latent_diffusion import BUNDLED, LatentDiffusion

if TYPE_CHECKING:
    from PIL import Image

    from ..data.source import Source

CLOSE = 1e-3  # of the latents' deviation: diffusers' pipeline against the loop here
FOLDERS = {"ControlNetModel": "controlnet", "T2IAdapter": "t2i_adapter"}
PIPELINES = {"ControlNetModel": "ControlNetPipeline", "T2IAdapter": "AdapterPipeline"}


class ControlFolder:
    """A control network that writes itself (an `Export`).

    Args:
        model: what it was trained beside.
        network: diffusers' ControlNetModel or T2IAdapter.
        source: what it was trained on; the first example's condition is kept.
        condition: what it was trained to draw after, as `--condition` names it.
    """

    def __init__(self, model: LatentDiffusion, network: ControlNetwork, source: Source, condition: str) -> None:
        from ..sampling.control import condition_of

        self._network, self._condition = network, condition
        self._picture = condition_of(source, 0)
        self._base, self._pipeline = model.identity, pipeline_name(model, network)

    def write(self, folder: Path, name: str, dtype: torch.dtype) -> list[Path]:
        """Write the folder and condition.png; their paths."""
        from .. import __version__
        from ..evaluation.sheet import save

        path = folder / FOLDERS[type(self._network).__name__]
        said = self._condition if self._condition in CONDITIONS else GIVEN
        header = {"format": "pt", "tuner.base": self._base, "tuner.condition": said, "tuner.version": __version__}
        with replacing(path) as part:
            self._network.save_config(part)
            Artifact(self._network.state_dict(), header).to(dtype).save(part / WEIGHTS)
        save(self._picture, folder / "condition.png")
        return [path, folder / "condition.png"]

    def prove(self, paths: list[Path], base: LatentDiffusion) -> list[str]:
        """Load the folder, compare its tensors with those in memory, and draw with diffusers' own pipeline.

        Raises:
            RunError: a tensor differs, diffusers' pipeline draws something else than the loop here, or the network
                changes nothing.
        """
        loaded = load_control(str(paths[0]), base.unet, base.scale).to(base.device)
        held = _held(paths[0])
        mine = self._network.state_dict()
        wrong = next((n for n, t in loaded.state_dict().items() if not _same(t, mine.get(n), held)), None)
        if wrong:
            raise RunError(f"{paths[0]}: `{wrong}` differs from what was trained.")
        plain, steered, theirs = _drawn(base, loaded, self._picture)
        if not (steered - plain).abs().max() > 0:
            raise RunError(f"{paths[0]} changes nothing; train it for longer, or with a higher --learning-rate.")
        error = ((steered - theirs).abs().max() / theirs.std()).item()
        if not error < CLOSE:
            raise RunError(f"{paths[0]}: diffusers draws otherwise with it, by {error:.2g} of the latents' deviation.")
        return [f"{self._pipeline} of diffusers loads the folder, and draws with it what is drawn here"]

    def usage(self, paths: list[Path], prompt: str) -> str:
        """How to use the folder, as Markdown."""
        kind, name = type(self._network).__name__, paths[0].name
        word = "controlnet" if kind == "ControlNetModel" else "adapter"
        bundled = self._base in BUNDLED
        where = f"BUNDLED[{json.dumps(self._base)}]" if bundled else json.dumps(self._base)
        also = "from tuner.models.latent_diffusion import BUNDLED\n" if bundled else ""
        how = "from_single_file" if self._base.endswith(".safetensors") else "from_pretrained"
        return (
            f"```python\nfrom diffusers import {kind}, {self._pipeline}\nfrom PIL import Image\n{also}\n"
            f'control = {kind}.from_pretrained("{name}")\n'
            f"pipe = {self._pipeline}.{how}({where}, {word}=control)\n"
            f'pipe({json.dumps(prompt)}, image=Image.open("condition.png")).images[0].save("picture.png")\n```\n\n'
            f"ComfyUI and A1111's ControlNet extension: put `{name}/{WEIGHTS}`, under a name "
            f"of your choice, into `models/controlnet` or `models/ControlNet`. `condition.png` is a condition "
            f"({self._condition}) as it was trained on.\n"
        )

    def flags(self, paths: list[Path], base: str) -> str:
        """What `tuner generate` is told to draw with the folder."""
        words = ["--base", base, "--control", str(paths[0]), "--control-image", str(paths[0].parent / "condition.png")]
        return shlex.join(words)


def pipeline_name(model: LatentDiffusion, network: ControlNetwork) -> str:
    """diffusers' pipeline for a base with a control network."""
    return model.family.pipeline.replace("Pipeline", PIPELINES[type(network).__name__])


def pipeline(model: LatentDiffusion, network: ControlNetwork | list[ControlNetwork], sampler: str = "ddim") -> Any:
    """diffusers' own pipeline over these very parts (nothing is copied)."""
    import diffusers

    first = network[0] if isinstance(network, list) else network
    word = "controlnet" if type(first).__name__ == "ControlNetModel" else "adapter"
    kind = getattr(diffusers, pipeline_name(model, first))
    own = model.pipeline(sampler).components
    parts = {**own, "force_zeros_for_empty_prompt": model.zero_empty, "requires_safety_checker": False}
    taken = inspect.signature(kind.__init__).parameters
    pipe = kind(**{name: part for name, part in parts.items() if name in taken}, **{word: network})
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def _drawn(model: LatentDiffusion, network: ControlNetwork, picture: Image.Image) -> tuple[Tensor, Tensor, Tensor]:
    """Latents after two steps: without the network, with it, and with it by diffusers' own pipeline."""
    from ..sampling.conditions import Prompts
    from ..sampling.control import Control, Steering
    from ..sampling.denoising import denoise
    from ..sampling.noise import starts
    from ..sampling.options import SamplingOptions
    from ..sampling.shots import Shot

    side = min(model.resolution, 4 * model.unit)
    picture, shot = picture.resize((side, side)), Shot("a photo", 0, "", 2, 3.0)

    def ours(controls: list[Control]) -> Tensor:
        pipe = model.pipeline()
        noise, generators = starts([shot], (model.unet.config.in_channels, side // model.scale, side // model.scale))
        steering = Steering(controls, (side, side), model.device)
        return denoise(pipe, noise, Prompts(pipe).told([shot]), 2, generators, SamplingOptions(), control=steering)

    theirs = pipeline(model, network)(
        shot.prompt, image=picture, height=side, width=side, num_inference_steps=2, guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0), output_type="latent",
    ).images  # fmt: skip
    return ours([]).cpu(), ours([Control(network, picture)]).cpu(), theirs.float().cpu()


def _same(loaded: Tensor, mine: Tensor | None, held: torch.dtype) -> bool:
    return mine is not None and torch.equal(loaded.cpu(), mine.detach().cpu().to(held).float())


def _held(folder: Path) -> torch.dtype:
    return next(iter(Artifact.load(folder / WEIGHTS).tensors.values())).dtype
