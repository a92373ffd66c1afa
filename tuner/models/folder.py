"""A whole model as a diffusers folder: what pretraining and whole-model fine-tuning leave."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch
from torch import Tensor

from ..errors import RunError
from .architecture import save
from .latent_diffusion import LatentDiffusion

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 2e-1}


class PipelineFolder:
    """A model that writes itself as `pipeline/` (an `Export`)."""

    def __init__(self, model: LatentDiffusion) -> None:
        self.model = model
        self._said: dict[str, Tensor] = {}  # what the parts answered when they were written

    def write(self, folder: Path, name: str, dtype: torch.dtype) -> list[Path]:
        """Write folder/pipeline; its path."""
        self._said = _answers(self.model)
        save(self.model, folder / "pipeline", dtype)
        return [folder / "pipeline"]

    def prove(self, paths: list[Path], base: LatentDiffusion) -> list[str]:
        """Load the folder with plain diffusers and compare its parts with the model in memory.

        Raises:
            RunError: they differ by more than the file's precision explains.
        """
        found = _answers(LatentDiffusion.load(str(paths[0])).to(base.device))
        for part, mine in self._said.items():
            error = ((mine - found[part]).norm() / mine.norm()).item()
            if not error < TOLERANCE[self._dtype(paths[0])]:
                raise RunError(
                    f"{paths[0]}: the {part} that diffusers loads differs from the one in memory by {error:.2g}."
                )
        return ["diffusers loads the folder, and its parts compute what they computed here"]

    def usage(self, paths: list[Path], prompt: str) -> str:
        """How to use the folder, as Markdown."""
        kind = self.model.family.pipeline
        return (
            f"```python\nfrom diffusers import {kind}\n\n"
            f'pipe = {kind}.from_pretrained("{paths[0].name}")\n'
            f'pipe("{prompt}").images[0].save("picture.png")\n```\n'
        )

    def flags(self, paths: list[Path], base: str) -> str:
        """What `tuner generate` is told to draw with the folder."""
        return f"--base {shlex.quote(str(paths[0]))}"

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
    answer = model.predict(latents, torch.tensor([500], device=model.device), told)
    return {
        name: tensor.cpu()
        for name, tensor in (("text encoder", told.hidden), ("autoencoder", latents), ("U-Net", answer))
    }
