"""Pictures on their way in and out: files, sizes, masks, and the autoencoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from ..data.pictures import BadPicture, read
from ..errors import RequestError, RunError
from .shots import Size
from .tiles import tiled

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SEAM = 4  # pixels around a mask over which what was painted gives way to what was there
WHOLE = 3 * 2**19  # pixels that the autoencoder takes at once; larger pictures go through it in tiles
CLOSE = 4.0  # a picture of the base's own area, up to this factor, is drawn at about its own size


@dataclass(frozen=True)
class Source:
    """A picture to begin from.

    Attributes:
        picture: RGB.
        strength: how far to leave it, in (0, 1].
        mask: L, of the picture's size: 255 where it is painted anew, else 0; None is everywhere.
    """

    picture: Image.Image
    strength: float
    mask: Image.Image | None = None


def open_picture(path: str, flag: str) -> Image.Image:
    """A picture file, upright, in RGB. Raises RequestError where it cannot be read; `flag` is the option it came by."""
    try:
        return read(Path(path))
    except BadPicture as error:
        raise RequestError(f"{flag} {error}; name a picture file.") from None


def open_mask(path: str, picture: Image.Image) -> Image.Image:
    """A mask for a picture, L, 0 or 255. Raises RequestError: it cannot be read, has another size, or masks nothing."""
    mask = open_picture(path, "--mask").convert("L").point(lambda value: 255 * (value > 127))
    if mask.size != picture.size:
        sizes = "{} x {} pixels, the picture of --image {} x {}".format(*mask.size, *picture.size)
        raise RequestError(f"--mask {path} has {sizes}; the two must have the same size.")
    if not mask.getbbox():
        raise RequestError(f"--mask {path} is black all over; make white what is to be painted anew.")
    return mask


# -- sizes -------------------------------------------------------------------------------------------------------------


def own_side(pipe: StableDiffusionPipeline) -> int:
    """The side, in pixels, of the pictures that the base was trained on."""
    return int(pipe.unet.config.sample_size) * int(pipe.vae_scale_factor)


def unit(pipe: StableDiffusionPipeline) -> int:
    """What sides must be multiples of; 8 is the pipelines' own wish."""
    return math.lcm(8, pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1))


def suited(pipe: StableDiffusionPipeline, size: Size) -> Size:
    """The size that a picture is drawn at: the nearest whose sides suit the base.

    A picture of more than 4 times the base's area, or less than a quarter, is brought to that area in its own shape.
    """
    area, pixels = own_side(pipe) ** 2, size[0] * size[1]
    scale = 1.0 if area / CLOSE <= pixels <= area * CLOSE else math.sqrt(area / pixels)
    return rounded((size[0] * scale, size[1] * scale), unit(pipe))


def rounded(size: tuple[float, float], step: int) -> Size:
    """The nearest size whose sides are multiples of `step`."""
    width, height = (max(step, round(side / step) * step) for side in size)
    return width, height


# -- the autoencoder ---------------------------------------------------------------------------------------------------


def encode(pipe: StableDiffusionPipeline, picture: Image.Image) -> Tensor:
    """A picture whose sides are multiples of the autoencoder's scale -> the middle of its latents, (1, C, h, w)."""
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    scale, vae = pipe.vae_scale_factor, pipe.vae

    def work(part: Tensor) -> Tensor:
        return vae.encode(part.to(vae.dtype)).latent_dist.mode().float()

    side = own_side(pipe) // scale if picture.width * picture.height > WHOLE else max(picture.size)
    return tiled(pixels.to(vae.device), side, work, zoom=(scale, 1)) * vae.config.scaling_factor


def decode(pipe: StableDiffusionPipeline, latents: Tensor) -> Image.Image:
    """Latents (1, C, h, w) -> a picture.

    Raises:
        RunError: it is not finite.
    """
    scale, vae = pipe.vae_scale_factor, pipe.vae
    large = latents.shape[-1] * latents.shape[-2] * scale**2 > WHOLE
    side = own_side(pipe) // scale if large else max(latents.shape)

    def work(part: Tensor) -> Tensor:
        return vae.decode(part.to(vae.dtype)).sample.float()

    pixels = tiled(latents.to(vae.device) / vae.config.scaling_factor, side, work, zoom=(1, scale))
    if not pixels.isfinite().all():
        raise RunError("The model draws values that are not finite; try --precision fp32, or another adapter.")
    values = (pixels[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray((values * 255).round().astype("uint8"))


# -- masks -------------------------------------------------------------------------------------------------------------


def painted(mask: Image.Image, size: Size) -> Tensor:
    """Where latents are painted anew, (1, 1, h, w), 0 or 1: everywhere that the mask touches. `size` is (w, h)."""
    shares = Image.fromarray(np.asarray(mask, dtype=np.float32)).resize(size, Image.Resampling.BOX)
    return torch.from_numpy((np.asarray(shares) > 0).astype(np.float32))[None, None]


def pasted(drawn: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """What was drawn inside the mask, and the original, pixel for pixel, from `SEAM` pixels around it."""
    grown = [mask.filter(ImageFilter.MaxFilter(2 * reach + 1)) if reach else mask for reach in range(SEAM + 1)]
    shares = np.mean([np.asarray(layer, dtype=np.float32) for layer in grown], 0).round().astype(np.uint8)
    drawn = drawn if drawn.size == original.size else drawn.resize(original.size, Image.Resampling.LANCZOS)
    return Image.composite(drawn, original, Image.fromarray(shares))
