"""Contact sheets: pictures in rows, with words beside and above them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

GAP, INK, PAPER = 6, (30, 30, 34), (255, 255, 255)


def grid(
    pictures: Sequence[Sequence[Image.Image]], rows: Sequence[str] = (), columns: Sequence[str] = (), cell: int = 128
) -> Image.Image:
    """Rows of pictures as one picture, each scaled to `cell` pixels.

    Args:
        pictures: the rows; they may differ in length.
        rows: words above each row, where given.
        columns: words above the columns, where given.
    """
    font = ImageFont.load_default(13)
    band = 20 if rows else 0
    width = max(len(row) for row in pictures) * (cell + GAP) + GAP
    top = 22 if columns else 0
    sheet = Image.new("RGB", (width, top + len(pictures) * (cell + GAP + band) + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for x, words in enumerate(columns):
        pen.text((GAP + x * (cell + GAP), 4), words, INK, font)
    for y, row in enumerate(pictures):
        y0 = top + GAP + y * (cell + GAP + band)
        if rows:
            pen.text((GAP, y0), rows[y], INK, font)
        for x, picture in enumerate(row):
            whole = cell % picture.width == 0  # small pictures are enlarged without blur
            scaled = picture.resize((cell, cell), Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)
            sheet.paste(scaled, (GAP + x * (cell + GAP), y0 + band))
    return sheet


def beside(before: Path, after: Path) -> Image.Image:
    """Two sheets side by side under the words "before" and "after"."""
    parts = [Image.open(path).convert("RGB") for path in (before, after)]
    sheet = Image.new("RGB", (sum(p.width for p in parts) + 4 * GAP, max(p.height for p in parts) + 26), PAPER)
    pen, x = ImageDraw.Draw(sheet), 0
    for words, part in zip(("before", "after"), parts, strict=True):
        pen.text((x + GAP, 4), words, INK, ImageFont.load_default(17))
        sheet.paste(part, (x, 26))
        x += part.width + 4 * GAP
    return sheet


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    from ..files import replacing

    with replacing(path) as part:
        picture.save(part, "PNG")
