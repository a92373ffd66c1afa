"""The one door through which pictures come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
BACKGROUND = (255, 255, 255)  # what a transparent picture is laid on


class BadPicture(ValueError):
    """A picture that cannot be used; the message names the file and says why."""


def read(path: Path) -> Image.Image:
    """Decode a picture to RGB: turned upright, transparency laid on white, 16 bits brought down to 8.

    Raises:
        BadPicture: it cannot be decoded whole.
    """
    try:
        with Image.open(path, formats=FORMATS) as file:
            file.load()
            picture = ImageOps.exif_transpose(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "it is empty" if path.is_file() and path.stat().st_size == 0 else str(error).split(" <")[0]
        raise BadPicture(f"{path} cannot be read: {reason}") from None
    if picture.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion cuts everything above 255 off
        return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, BACKGROUND), layer).convert("RGB")
    return picture.convert("RGB")


def square(picture: Image.Image, side: int) -> np.ndarray:
    """The middle of a picture, scaled to `side`: uint8, (3, side, side)."""
    return np.asarray(ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)).transpose(2, 0, 1).copy()
