"""Contact sheets: pictures in rows, with words beside and above them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

GAP, INK, PAPER = 6, (30, 30, 34), (255, 255, 255)
LONGEST = 640  # pixels that a row of few pictures is widened to, for its words


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
    words_need = min(LONGEST, max((int(font.getlength(words)) + 2 * GAP for words in rows), default=0))
    width = max(max(len(row) for row in pictures) * (cell + GAP) + GAP, words_need)
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
            sheet.paste(_scaled(picture, cell), (GAP + x * (cell + GAP), y0 + band))
    return sheet


def captioned(pictures: Sequence[Image.Image], words: Sequence[str], across: int, cell: int = 128) -> Image.Image:
    """Pictures in rows of `across`, each scaled to `cell` pixels, with all its words under it."""
    font, line = ImageFont.load_default(11), 14
    texts = [_wrapped(text, font, cell) for text in words]
    band = line * max(map(len, texts)) + GAP
    down = -(-len(pictures) // across)
    sheet = Image.new("RGB", (across * (cell + GAP) + GAP, down * (cell + GAP + band) + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, (picture, lines) in enumerate(zip(pictures, texts, strict=True)):
        x, y = GAP + place % across * (cell + GAP), GAP + place // across * (cell + GAP + band)
        sheet.paste(_scaled(picture, cell), (x, y))
        for number, text in enumerate(lines):
            pen.text((x, y + cell + 2 + number * line), text, INK, font)
    return sheet


def _scaled(picture: Image.Image, cell: int) -> Image.Image:
    whole = cell % picture.width == 0  # small pictures are enlarged without blur
    return picture.resize((cell, cell), Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


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
