"""Pictures from a pipeline, each a function of its prompt and its seed alone: not of what else is in its batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..sampling.shots import GUIDANCE, STEPS, Shot

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL import Image


def pictures(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    negative: str = "",
    batch_size: int = 4,
    resolution: int = 0,
) -> list[Image.Image]:
    """A picture for every prompt and seed, prompt by prompt: len(prompts) * len(seeds).

    Args:
        pipe: a pipeline, with the scheduler to sample with.
        prompts: what to draw.
        seeds: of the starting noise, and of the noise that stochastic samplers add.
        steps: denoising steps.
        guidance: scale of classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598); 1 and less is without.
        negative: what the guidance leads away from.
        batch_size: pictures at once.
        resolution: side in pixels; 0 is the base's own.

    Raises:
        RequestError: the resolution, or the number of steps, does not suit the model.
        RunError: a picture is not finite.
    """
    from ..sampling.drawing import draw

    shots = [
        Shot(prompt, seed, negative, steps, guidance, resolution, resolution) for prompt in prompts for seed in seeds
    ]
    return list(draw(pipe, shots, batch_size=batch_size))
