"""Pictures from a pipeline, each a function of its prompt and its seed alone: not of what else is in its batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from ..errors import RequestError, RunError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL import Image

STEPS, GUIDANCE = 20, 4.0


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
        RequestError: the resolution does not suit the model.
        RunError: a picture is not finite.
    """
    return list(draw(pipe, prompts, seeds, steps, guidance, negative, batch_size, resolution))


@torch.no_grad()
def draw(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    negative: str = "",
    batch_size: int = 4,
    resolution: int = 0,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Image.Image]:
    """`pictures`, one after the other as they are done. `told` hears of every denoising step: how many, of how many."""
    shape = _latent_shape(pipe, resolution)
    wanted = [(prompt, seed) for prompt in prompts for seed in seeds]
    chunks = [wanted[start : start + batch_size] for start in range(0, len(wanted), batch_size)]
    for number, chunk in enumerate(chunks):
        # Drawn on the CPU, so every device gets the same numbers.
        generators = [torch.Generator("cpu").manual_seed(seed) for _, seed in chunk]
        latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators])

        def after(_pipe: object, step: int, _t: object, kept: dict, before: int = number * steps) -> dict:
            told(before + step + 1, len(chunks) * steps)
            return kept

        with _one_precision(pipe):
            latents = pipe(
                [prompt for prompt, _ in chunk], num_inference_steps=steps, guidance_scale=guidance,
                negative_prompt=[negative] * len(chunk) if guidance > 1 and negative else None,
                generator=generators, output_type="latent", callback_on_step_end=after,
                latents=latents.to(pipe.unet.device, pipe.text_encoder.dtype),
                height=shape[1] * pipe.vae_scale_factor, width=shape[2] * pipe.vae_scale_factor,
            ).images  # fmt: skip
        latents = latents.to(pipe.vae.device, pipe.vae.dtype) / pipe.vae.config.scaling_factor
        pixels = pipe.image_processor.postprocess(pipe.vae.decode(latents).sample, output_type="pt")
        if not pixels.isfinite().all():
            raise RunError("The model draws values that are not finite; try fp32 weights, or another adapter.")
        yield from pipe.image_processor.numpy_to_pil(pipe.image_processor.pt_to_numpy(pixels))


def _one_precision(pipe: StableDiffusionPipeline) -> AbstractContextManager[object]:
    """A U-Net that is held in half precision computes in it; the encoders beside it stay as they are."""
    held = next(p.dtype for p in pipe.unet.parameters() if p.is_floating_point())
    if held == pipe.text_encoder.dtype:
        return nullcontext()
    return torch.autocast(pipe.unet.device.type, held)


def _latent_shape(pipe: StableDiffusionPipeline, resolution: int) -> tuple[int, int, int]:
    """(C, h, w) of a picture's latent."""
    scale, unet = pipe.vae_scale_factor, pipe.unet.config
    unit = math.lcm(8, scale * 2 ** (len(unet.block_out_channels) - 1))  # 8 is the pipeline's own wish
    side = resolution or unet.sample_size * scale
    if side % unit:
        raise RequestError(f"--resolution {side} does not suit this base; use a multiple of {unit}.")
    return unet.in_channels, side // scale, side // scale
