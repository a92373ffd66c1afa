"""Drawing: shots -> pictures, each a function of its shot alone, not of what else is in its batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from ..errors import RequestError
from ..models.samplers import taken
from .conditions import Prompts
from .denoising import Hook, Start, Tick, denoise
from .images import Source, decode, encode, own_side, painted, pasted, suited, unit
from .noise import starts
from .options import SamplingOptions
from .shots import Shot, Size, batches

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL import Image

    from .control import Control


@torch.no_grad()
def draw(
    pipe: StableDiffusionPipeline,
    shots: Sequence[Shot],
    how: SamplingOptions | None = None,
    source: Source | None = None,
    batch_size: int = 4,
    tick: Tick = lambda: None,
    controls: Sequence[Control] = (),
) -> Iterator[Image.Image]:
    """A picture for every shot, in their order, one after the other as they are done.

    Args:
        pipe: a pipeline, with the scheduler to sample with.
        shots: what to draw.
        how: what is done to the predictions and the steps.
        source: a picture to begin from. With a mask the results have its size, and its pixels outside the mask.
        batch_size: pictures at once.
        tick: called after each denoising step: `passes` times in all.
        controls: control networks, which the pictures are steered by.

    Raises:
        RequestError: a size, or a number of steps, does not suit.
        RunError: a picture is not finite.
    """
    check_sizes(pipe, shots, source)
    prompts, done = Prompts(pipe), 0
    for chunk in _chunks(pipe, shots, source, batch_size):
        size = size_of(pipe, chunk[0], source)
        width, height = (side // pipe.vae_scale_factor for side in size)
        start = _start(pipe, source, (width, height))
        noise, generators = starts(chunk, (pipe.unet.config.in_channels, height, width))
        own = [control.of(done, done + len(chunk)) for control in controls]
        latents = denoise(pipe, noise, prompts.told(chunk), chunk[0].steps, generators, how or SamplingOptions(),
                          start, tick=tick, control=_steering(pipe, own, size))  # fmt: skip
        done += len(chunk)
        for one in latents.split(1):
            picture = decode(pipe, one)
            yield pasted(picture, source.picture, source.mask) if source and source.mask else picture


def passes(
    pipe: StableDiffusionPipeline, shots: Sequence[Shot], source: Source | None = None, batch_size: int = 4
) -> int:
    """The denoising steps that `draw` takes, batch by batch."""
    strength = source.strength if source else 1.0
    return sum(taken(chunk[0].steps, strength) for chunk in _chunks(pipe, shots, source, batch_size))


def size_of(pipe: StableDiffusionPipeline, shot: Shot, source: Source | None = None) -> Size:
    """The size in pixels at which a shot is drawn."""
    if source and (source.mask or not (shot.width or shot.height)):
        return suited(pipe, source.picture.size)
    return shot.width or own_side(pipe), shot.height or own_side(pipe)


def check_sizes(pipe: StableDiffusionPipeline, shots: Sequence[Shot], source: Source | None = None) -> None:
    """Raises RequestError where a shot has a size that the base cannot draw."""
    step = unit(pipe)
    for shot in shots:
        width, height = size_of(pipe, shot, source)
        name, side = next(((n, s) for n, s in (("width", width), ("height", height)) if s % step), ("", 0))
        if not name:
            continue
        flag = "--resolution" if width == height else f"--{name}"
        who = f"{shot.where}: --{name[0]}" if shot.where else flag
        raise RequestError(f"{who} {side} does not suit this base; use a multiple of {step}.")


def _chunks(
    pipe: StableDiffusionPipeline, shots: Sequence[Shot], source: Source | None, batch_size: int
) -> Iterator[list[Shot]]:
    return batches(shots, batch_size, lambda shot: size_of(pipe, shot, source))


def _steering(pipe: StableDiffusionPipeline, controls: Sequence[Control], size: Size) -> Hook | None:
    from .control import Steering

    return Steering(controls, size, pipe.unet.device) if controls else None


def _start(pipe: StableDiffusionPipeline, source: Source | None, size: Size) -> Start | None:
    """What to begin from, for latents of (width, height). Without a mask the picture's middle is taken."""
    from PIL import Image, ImageOps

    if source is None:
        return None
    pixels = size[0] * pipe.vae_scale_factor, size[1] * pipe.vae_scale_factor
    if source.mask is None:
        fitted = ImageOps.fit(source.picture, pixels, Image.Resampling.LANCZOS)
        return Start(encode(pipe, fitted), source.strength)
    fitted = source.picture.resize(pixels, Image.Resampling.LANCZOS)
    return Start(encode(pipe, fitted), source.strength, painted(source.mask, size).to(pipe.unet.device))
