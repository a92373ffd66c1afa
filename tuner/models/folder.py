"""A whole model as a diffusers folder: what pretraining and whole-model fine-tuning leave."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import RunError
from .architecture import save
from .latent_diffusion import LatentDiffusion

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 2e-1}


@dataclass(frozen=True)
class PipelineFolder:
    """A model that writes itself as `pipeline/` (an `Export`)."""

    model: LatentDiffusion

    def write(self, folder: Path, name: str, dtype: torch.dtype) -> list[Path]:
        """Write folder/pipeline; its path."""
        save(self.model, folder / "pipeline", dtype)
        return [folder / "pipeline"]

    @torch.no_grad()
    def prove(self, paths: list[Path], base: LatentDiffusion) -> list[str]:
        """Load the folder with plain diffusers and compare its parts with the model in memory.

        Raises:
            RunError: they differ by more than the file's precision explains.
        """
        theirs = type(self.model).load(str(paths[0]))
        size = self.model.resolution
        pixels = torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)
        latents = self.model.encode_images(pixels).chunk(2, 1)[0]
        t = torch.tensor([500])
        told, also = (model.encode_prompts(["a photo"]) for model in (self.model, theirs))
        pairs = {
            "text encoder": (told.hidden, also.hidden),
            "autoencoder": (latents, theirs.encode_images(pixels).chunk(2, 1)[0]),
            "U-Net": (self.model.predict(latents, t, told), theirs.predict(latents, t, told)),
        }
        for part, (mine, its) in pairs.items():
            error = ((mine - its).norm() / mine.norm()).item()
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
