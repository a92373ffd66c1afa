"""Enlarging a picture: it is resized, and its detail drawn anew by a short way back from noise, in tiles of the size
that the base was trained on. What the autoencoder alone would lose of it is given back: the resized picture is changed
by the difference between what was drawn and what the autoencoder makes of the picture undrawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import RequestError
from ..models.samplers import taken
from .conditions import Prompts
from .denoising import Start, Tick, denoise
from .images import decode, encode, own_side, rounded, unit
from .noise import starts
from .options import SamplingOptions
from .shots import Shot, Size

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL import Image

MOST = 2**26  # pixels


def enlarged_size(pipe: StableDiffusionPipeline, size: Size, factor: float) -> Size:
    """The size of a picture enlarged: the nearest whose sides suit the base.

    Raises:
        RequestError: it is more than memory should be asked for.
    """
    found = rounded((size[0] * factor, size[1] * factor), unit(pipe))
    if found[0] * found[1] > MOST:
        raise RequestError(f"--upscale {factor:g} makes {found[0]} x {found[1]} pixels of this picture; ask for less.")
    return found


@torch.no_grad()
def enlarge(
    pipe: StableDiffusionPipeline,
    picture: Image.Image,
    shot: Shot,
    factor: float,
    strength: float = 0.3,
    how: SamplingOptions | None = None,
    batch_size: int = 4,
    tick: Tick = lambda: None,
) -> Image.Image:
    """A picture, `factor` times as large.

    Args:
        picture: RGB, of any size.
        shot: its prompt, negative prompt, seed, steps and guidance.
        strength: how far the detail may leave the resized picture, in (0, 1].
        how: what is done to the predictions and the steps.
        batch_size: tiles at once.
        tick: called after each denoising step: `samplers.taken(shot.steps, strength)` times.

    Raises:
        RequestError: the result would be too large.
        RunError: it is not finite.
    """
    from PIL import Image, ImageOps

    size = enlarged_size(pipe, picture.size, factor)
    fitted = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    start = Start(encode(pipe, fitted), strength)
    channels, height, width = start.latents.shape[1:]
    noise, generators = starts([shot], (channels, height, width))
    tile = own_side(pipe) // pipe.vae_scale_factor
    latents = denoise(pipe, noise, Prompts(pipe).told([shot]), shot.steps, generators, how or SamplingOptions(), start,
                      tile, batch_size, tick)  # fmt: skip
    drawn, undrawn = (np.asarray(decode(pipe, each), dtype=np.int16) for each in (latents, start.latents))
    return Image.fromarray((np.asarray(fitted, dtype=np.int16) + drawn - undrawn).clip(0, 255).astype(np.uint8))


def enlarging_passes(shots: Sequence[Shot], strength: float) -> int:
    """The denoising steps that enlarging the pictures of shots takes."""
    return sum(taken(shot.steps, strength) for shot in shots)
