"""Pages in one file: the templates, what they are given, and pictures as data URIs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from .. import __version__
from . import lines as words
from .lines import Line, interval
from .statistics import Figure

PLAIN_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # what a browser shows of a PNG
SMALL = 160  # pixels; smaller pictures are enlarged without blur
EXACT = 256  # pixels; smaller pictures are embedded as they are
LARGEST = 640  # pixels of an embedded picture
SHOWN = 6  # rows of a grid, rows beyond are folded
LONG = 12  # rows of a table that is folded
NUMBERS = "no one two three four five six seven eight nine ten eleven twelve".split()


@dataclass(frozen=True)
class Shown:
    """A picture of the page; without a `uri`, one that is missing."""

    uri: str
    alt: str
    width: int = 1
    height: int = 1

    @property
    def small(self) -> bool:
        return max(self.width, self.height) <= SMALL


@dataclass(frozen=True)
class Panel:
    """The pictures of one column in one row."""

    title: str
    pictures: tuple[Shown, ...]


@dataclass(frozen=True)
class Bar:
    """A change's interval around zero; places in percent of the width, 50 is zero."""

    low: float
    value: float
    high: float
    margin: float


def png(picture: Image.Image) -> bytes:
    """A picture as PNG."""
    held = io.BytesIO()
    (picture if picture.mode in PLAIN_MODES else picture.convert("RGB")).save(held, "PNG")
    return held.getvalue()


def shown(picture: Image.Image | None, alt: str) -> Shown:
    """A picture inside the page: exact where it is small, else scaled to what a screen shows, as WebP."""
    if picture is None:
        return Shown("", f"{alt}: the picture is missing")
    if max(picture.size) <= EXACT:
        kind, held = "png", png(picture)
    else:
        fitted = picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGB")
        fitted = fitted.copy()
        fitted.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        fitted.save(buffer, "WEBP", quality=90, method=4)
        kind, held = "webp", buffer.getvalue()
    uri = f"data:image/{kind};base64,{base64.b64encode(held).decode('ascii')}"
    return Shown(uri, alt, *picture.size)


def panels(label: str, columns: Sequence[str], pictures: Sequence[Image.Image | None]) -> list[Panel]:
    """A row of a grid: its pictures under its columns, or under no column at all."""
    each = len(pictures) // max(1, len(columns))
    made: list[Panel] = []
    for i, column in enumerate(columns or ("",)):
        part = pictures[i * each : (i + 1) * each]
        names = [", ".join(filter(None, (label, column, _of(k, each)))) or "picture" for k in range(len(part))]
        made.append(Panel(column, tuple(map(shown, part, names))))
    return made


def _of(place: int, count: int) -> str:
    return f"picture {place + 1} of {count}" if count > 1 else ""


def bar(line: Line) -> Bar | None:
    """The whisker of a line; None where the change has no interval."""
    found = line.change and interval(line.change)
    if not found or line.change is None or not all(map(math.isfinite, (*found, line.change.value))):
        return None
    value = line.change.value
    reach = 1.12 * max(map(abs, (*found, value, 1.5 * line.margin))) or 1.0
    low, middle, high = (round(50 + 50 * x / reach, 2) for x in (found[0], value, found[1]))
    return Bar(low, middle, high, round(50 * line.margin / reach, 2))


def tally(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """The lines by verdict, in the order in which they are told."""
    groups: dict[str, list[Line]] = {verdict: [] for verdict in words.ORDER}
    for line in lines:
        groups[line.verdict].append(line)
    return groups


def headline(groups: Mapping[str, Sequence[Line]]) -> str:
    """`Three figures improved, one got worse.`"""
    better, worse = len(groups["better"]), len(groups["worse"])
    if not any(groups[verdict] for verdict in words.ORDER if verdict):
        return "These figures are held against nothing."
    if not better and not worse:
        return "No figure changed beyond its uncertainty."
    first = f"{_count(better)} figure{'s' * (better != 1)} improved"
    return f"{first}, {_count(worse).lower() if worse else 'none'} got worse."


def _count(count: int) -> str:
    return NUMBERS[count].capitalize() if count < len(NUMBERS) else str(count)


@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    found.filters |= {name: getattr(words, name) for name in ("amount", "shift", "span", "counts", "sentence")}
    found.filters |= {"bar": bar, "setting": _setting, "limit": _limit}
    found.tests["figure"] = lambda cell: not isinstance(cell, str)
    found.globals |= {"version": __version__, "SHOWN": SHOWN, "LONG": LONG}
    return found


def _limit(margin: float, change: Figure) -> str:
    size = words.number(margin, change.unit)
    return f"{size} points" if change.unit == "share" else size


def _setting(value: str | int | float | None) -> str:
    return f"{value:g}" if isinstance(value, float) else "∞" if value is None else str(value)


def render(template: str, **values: Any) -> str:
    """A page; all words in it are escaped."""
    return _templates().get_template(template).render(**values)
