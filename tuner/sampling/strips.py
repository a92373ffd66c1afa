"""Pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageOps


def strip(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Rows of pictures of one size, edge to edge and at their full size, as one picture."""
    width, height = rows[0][0].size
    whole = Image.new("RGB", (width * max(map(len, rows)), height * len(rows)))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            whole.paste(picture, (x * width, y * height))
    return whole


def square(picture: Image.Image) -> Image.Image:
    """A picture on a white square that it just fits in."""
    side = max(picture.size)
    return picture if picture.width == picture.height else ImageOps.pad(picture, (side, side), color="white")
