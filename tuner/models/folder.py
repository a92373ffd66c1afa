"""A whole model as a diffusers folder: what pretraining and whole-model fine-tuning leave."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import RunError
from .architecture import save
from .latent_diffusion import LatentDiffusion

if TYPE_CHECKING:
    from ..sampling.manner import Manner

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 2e-1}


class PipelineFolder:
    """A model that writes itself as `pipeline/` (an `Export`).

    Args:
        changed: whether it has failed where it computes what its base does.
        manner: how it wants to be drawn with, where that is not as usual.
    """

    def __init__(self, model: LatentDiffusion, changed: bool = False, manner: Manner | None = None) -> None:
        self.model, self._changed, self._manner = model, changed, manner
        self._said: dict[str, Tensor] = {}  # what the parts answered when they were written

    def write(self, folder: Path, name: str, dtype: torch.dtype) -> list[Path]:
        """Write folder/pipeline; its path."""
        self._said = _answers(self.model.to(self.model.device))  # what does not train waits on the CPU
        save(self.model, folder / "pipeline", dtype, self._manner)
        return [folder / "pipeline"]

    def prove(self, paths: list[Path], base: LatentDiffusion) -> list[str]:
        """Load the folder with plain diffusers and compare its parts with the model in memory, and with the base.

        Raises:
            RunError: they differ by more than the file's precision explains, or the base computes the same.
        """
        found = _answers(LatentDiffusion.load(str(paths[0])).to(base.device))
        for part, mine in self._said.items():
            error = ((mine - found[part]).norm() / mine.norm()).item()
            if not error < TOLERANCE[self._dtype(paths[0])]:
                raise RunError(
                    f"{paths[0]}: the {part} that diffusers loads differs from the one in memory by {error:.2g}."
                )
        before = _answers(base) if self._changed else {}
        if before and all(torch.equal(answer, before[part]) for part, answer in found.items()):
            raise RunError(f"{paths[0]} draws what the base draws; train longer, or with a higher --learning-rate.")
        return ["diffusers loads the folder, and its parts compute what they computed here"]

    def usage(self, paths: list[Path], prompt: str) -> str:
        """How to use the folder, as Markdown."""
        kind = self.model.family.pipeline
        told = self._manner.python()[2] if self._manner else ""
        script = "sdxl" if self.model.family.name == "sdxl" else "stable_diffusion"
        others = (
            "ComfyUI's node DiffusersLoader finds it in `models/diffusers`; for A1111 make one file of it by a script "
            f"of diffusers, `scripts/convert_diffusers_to_original_{script}.py`. These two know published sizes alone."
        )
        if self.model.unet.config.time_cond_proj_dim is not None:
            others = "It is told its guidance, as diffusers' pipelines do; other programs leave that out."
        return (
            f"```python\nfrom diffusers import {kind}\n\n"
            f'pipe = {kind}.from_pretrained("{paths[0].name}")\n'
            f'pipe({json.dumps(prompt)}{told}).images[0].save("picture.png")\n```\n\n'
            f"`--base {paths[0].name}` gives it to every command of tuner. {others}\n"
        )

    def flags(self, paths: list[Path], base: str) -> str:
        """What `tuner generate` is told to draw with the folder."""
        return " ".join([f"--base {shlex.quote(str(paths[0]))}", *([self._manner.flags] if self._manner else [])])

    @staticmethod
    def _dtype(folder: Path) -> torch.dtype:
        from ..adapters.artifact import Artifact

        return next(iter(Artifact.load(folder / "unet" / "diffusion_pytorch_model.safetensors").tensors.values())).dtype


@torch.no_grad()
def _answers(model: LatentDiffusion) -> dict[str, Tensor]:
    """What each part computes of something small."""
    side = min(model.resolution, 4 * model.unit)
    pixels = torch.linspace(-1, 1, 3 * side * side, device=model.device).view(1, 3, side, side)
    told, latents = model.encode_prompts(["a photo"]), model.encode_images(pixels).chunk(2, 1)[0]
    middle, scale = (torch.tensor([number], device=model.device) for number in (500, 4))
    answer = model.predict(latents, middle, told, guidance=scale)
    found = {"text encoder": told.hidden, "encoder": latents, "decoder": model.decode(latents), "U-Net": answer}
    return {part: tensor.cpu() for part, tensor in found.items()}
