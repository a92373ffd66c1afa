"""Drawing as far as the latents, where pictures would hide small differences."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from tuner.models.latent_diffusion import LatentDiffusion
from tuner.sampling.conditions import Prompts
from tuner.sampling.denoising import Hook, Start, denoise
from tuner.sampling.drawing import size_of
from tuner.sampling.noise import starts
from tuner.sampling.options import SamplingOptions
from tuner.sampling.shots import Shot


@pytest.fixture(scope="session")
def family_model(tiny_family: Callable[[str], str]) -> Callable[[str], LatentDiffusion]:
    made: dict[str, LatentDiffusion] = {}

    def model(family: str) -> LatentDiffusion:
        if family not in made:
            made[family] = LatentDiffusion.load(tiny_family(family))
        return made[family]

    return model


@pytest.fixture(scope="session")
def model(tiny_base: str) -> LatentDiffusion:
    return LatentDiffusion.load(tiny_base)


@pytest.fixture(scope="session")
def latents_of() -> Callable[..., Tensor]:
    """The latents of shots, (B, C, h, w)."""

    @torch.no_grad()
    def latents(
        pipe, shots: Sequence[Shot], start: Start | None = None, tile: int = 0, control: Hook | None = None, **how
    ) -> Tensor:
        width, height = (side // pipe.vae_scale_factor for side in size_of(pipe, shots[0]))
        noise, generators = starts(shots, (4, height, width))
        told, options = Prompts(pipe).told(shots), SamplingOptions(**how)
        return denoise(pipe, noise, told, shots[0].steps, generators, options, start, tile, control=control)

    return latents
