"""The report of an evaluation: report.json for programs, report.html for people, both from the same figures."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .. import __version__
from ..files import replacing, write_json, write_text
from . import page
from .comparison import compare
from .lines import Line, in_order, sentence
from .statistics import Figure
from .stored import SCHEMA, Stored, load

__all__ = ["SCHEMA", "Grid", "Line", "Report", "Stored", "Table", "compare", "load", "save"]


@dataclass(frozen=True)
class Table:
    """Rows of words and figures under a head."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str | Figure, ...], ...]
    note: str = ""

    def json(self) -> dict[str, Any]:
        rows = [[cell.json() if isinstance(cell, Figure) else cell for cell in row] for row in self.rows]
        return {"title": self.title, "head": list(self.head), "rows": rows, "note": self.note}


@dataclass(frozen=True)
class Grid:
    """Labelled rows of pictures.

    Attributes:
        columns: such as ("before", "after"): the pictures of a row are equally many for each, the first's first;
            () where a row is one strip.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Image.Image, ...]], ...]
    note: str = ""

    def __post_init__(self) -> None:
        assert all(len(pictures) % max(1, len(self.columns)) == 0 for _, pictures in self.rows), self.title

    def names(self, place: int) -> list[list[str]]:
        """Where each picture of each row lies within the report's folder; `place` is that of the grid."""
        named: list[list[str]] = []
        for row, (_, pictures) in enumerate(self.rows, 1):
            each = len(pictures) // max(1, len(self.columns))
            columns = [f"-{_slug(column)}" for column in self.columns for _ in range(each)] or [""] * len(pictures)
            stem = f"pictures/grid{place}-row{row:02}"
            named.append([f"{stem}-{i:02}{column}.png" for i, column in enumerate(columns, 1)])
        return named


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        suite: which one: "subject".
        title: of what: "fox, a LoRA on emoji".
        judged: what was judged, by kind: {"run": ..., "adapter": ..., "base": ..., "against": ...}.
        settings: how it was measured: sampler, steps, guidance, seeds, pictures, features, judges.
        notes: warnings, and what was left out and why; those of the figures need not be repeated.
    """

    suite: str
    title: str
    judged: Mapping[str, str]
    settings: Mapping[str, str | int | float]
    lines: tuple[Line, ...]
    tables: tuple[Table, ...] = ()
    grids: tuple[Grid, ...] = ()
    notes: tuple[str, ...] = ()

    def json(self) -> dict[str, Any]:
        """What report.json holds: the same keys always, in the same order."""
        return {
            "schema": SCHEMA,
            "tuner": __version__,
            "suite": self.suite,
            "title": self.title,
            "judged": dict(self.judged),
            "settings": {name: _known(value) for name, value in self.settings.items()},
            "figures": [_line(line) for line in self.lines],
            "tables": [table.json() for table in self.tables],
            "grids": [_grid(grid, place) for place, grid in enumerate(self.grids, 1)],
            "notes": self.all_notes(),
        }

    def sentences(self) -> list[str]:
        """The verdict in words: what improved, what got worse, what is unclear, what stayed, what is only told."""
        return [sentence(line) for line in in_order(self.lines)]

    def all_notes(self) -> list[str]:
        """The notes and the figures' warnings, each once."""
        return list(dict.fromkeys([*self.notes, *self._warnings()]))

    def _warnings(self) -> Iterator[str]:
        for line in self.lines:
            yield from (f"{line.figure.name}: {warning}" for warning in line.warnings)
        for table in self.tables:
            cells = (cell for row in table.rows for cell in row if isinstance(cell, Figure))
            yield from (f"{cell.name}: {cell.warning}" for cell in cells if cell.warning)


def save(report: Report, folder: Path) -> Path:
    """Write pictures/, report.json and report.html, each file whole or not at all; where the page is."""
    for place, grid in enumerate(report.grids, 1):
        for names, (_, pictures) in zip(grid.names(place), grid.rows, strict=True):
            for name, picture in zip(names, pictures, strict=True):
                with replacing(folder / name) as part:
                    part.write_bytes(page.png(picture))
    write_json(folder / "report.json", report.json())
    grids = [
        (grid.title, grid.note, [(label, page.panels(label, grid.columns, found)) for label, found in grid.rows])
        for grid in report.grids
    ]
    groups = page.tally(report.lines)
    values = {"headline": page.headline(groups), "groups": groups, "grids": grids, "notes": report.all_notes()}
    write_text(folder / "report.html", page.render("report.html.jinja", report=report, **values))
    return folder / "report.html"


def _line(line: Line) -> dict[str, Any]:
    before, change = (found.json() if found else None for found in (line.before, line.change))
    told = {"name": line.figure.name, "about": line.about, "better": line.better, "verdict": line.verdict}
    return {**told, "after": line.figure.json(), "before": before, "change": change}


def _grid(grid: Grid, place: int) -> dict[str, Any]:
    named = zip(grid.rows, grid.names(place), strict=True)
    rows = [{"label": label, "pictures": names} for (label, _), names in named]
    return {"title": grid.title, "columns": list(grid.columns), "rows": rows}


def _known(value: str | int | float) -> str | int | float | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:24] or "column"
