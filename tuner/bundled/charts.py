"""Curves over numbers of steps, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from ..evaluation.lines import interval
from ..evaluation.sheet import INK, PAPER
from ..evaluation.statistics import Figure

WIDE, HIGH = 340, 230  # pixels of a chart
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 30, 26  # margins around its field
FAINT = (224, 224, 228)
COLOURS = ((30, 100, 200), (220, 110, 20), (120, 120, 126), (40, 150, 80), (150, 60, 160))
TICKS = 4


@dataclass(frozen=True)
class Chart:
    """A figure over numbers of steps.

    Attributes:
        title: what it shows.
        curves: by name, a figure at each number of steps; at most as many as there are colours.
        level: what it is held against, a line across; None is without.
    """

    title: str
    curves: Mapping[str, Mapping[int, Figure]]
    level: Figure | None = None


def charts(each: Sequence[Chart], level: str = "", across: int = 2) -> Image.Image:
    """Charts beside each other, under the names of their curves and of their level. Whiskers are 95% intervals."""
    across = min(across, len(each))
    down = -(-len(each) // across)
    sheet = Image.new("RGB", (across * WIDE, down * HIGH + 26), PAPER)
    pen, font, x = ImageDraw.Draw(sheet), ImageFont.load_default(12), 12
    for colour, name in zip(COLOURS, each[0].curves, strict=False):
        pen.line((x, 14, x + 18, 14), colour, 3)
        pen.text((x + 24, 7), name, INK, font)
        x += 40 + int(font.getlength(name))
    if level:
        _dashed(pen, x, x + 18, 14)
        pen.text((x + 24, 7), level, INK, font)
    for place, chart in enumerate(each):
        sheet.paste(_drawn(chart), (place % across * WIDE, 26 + place // across * HIGH))
    return sheet


def _drawn(chart: Chart) -> Image.Image:
    picture = Image.new("RGB", (WIDE, HIGH), PAPER)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    steps = sorted({n for curve in chart.curves.values() for n in curve})
    figures = [figure for curve in chart.curves.values() for figure in curve.values()]
    low, high = _range([*figures, *([chart.level] if chart.level else [])])

    def at(n: int, value: float) -> tuple[float, float]:
        place = (steps.index(n) + 0.5) / len(steps)
        share = (value - low) / (high - low)
        return LEFT + place * (WIDE - LEFT - RIGHT), HIGH - BOTTOM - share * (HIGH - TOP - BOTTOM)

    pen.text((LEFT, 8), chart.title, INK, ImageFont.load_default(13))
    for i in range(TICKS + 1):
        value = low + (high - low) * i / TICKS
        y = at(steps[0], value)[1]
        pen.line((LEFT, y, WIDE - RIGHT, y), FAINT)
        words = f"{100 * value:.0f}%" if figures[0].unit == "share" else f"{value:.2g}"
        pen.text((LEFT - 6 - font.getlength(words), y - 7), words, INK, font)
    for n in steps:
        x = at(n, low)[0]
        pen.text((x - font.getlength(str(n)) / 2, HIGH - BOTTOM + 6), str(n), INK, font)
    if chart.level:
        _dashed(pen, LEFT, WIDE - RIGHT, at(steps[0], chart.level.value)[1])
    for colour, curve in zip(COLOURS, chart.curves.values(), strict=False):
        points = [at(n, curve[n].value) for n in sorted(curve)]
        pen.line(points, colour, 2)
        for n, (x, y) in zip(sorted(curve), points, strict=True):
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), colour)
            ends = interval(curve[n])
            if ends:
                pen.line((x, at(n, ends[0])[1], x, at(n, ends[1])[1]), colour)
    return picture


def _dashed(pen: ImageDraw.ImageDraw, start: float, end: float, y: float) -> None:
    for k in range(int(end - start + 7) // 8):
        pen.line((start + 8 * k, y, start + 8 * k + 4, y), INK)


def _range(figures: Sequence[Figure]) -> tuple[float, float]:
    """From where to where the field goes: all of shares that are far apart, else what there is and some room."""
    ends = [end for figure in figures for end in (interval(figure) or (figure.value,) * 2)]
    low, high = min(ends), max(ends)
    if figures[0].unit == "share" and high - low > 0.5:
        return 0.0, 1.0
    room = 0.05 * (high - low) or 0.5
    if figures[0].unit == "share":
        return max(0.0, low - room), min(1.0, high + room)
    return low - room, high + room
