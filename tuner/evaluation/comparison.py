"""Two or more stored reports side by side: compare.json for programs, compare.html for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from .. import __version__
from ..errors import RequestError
from ..files import write_json, write_text
from . import page
from .lines import Line, interval
from .statistics import Figure
from .stored import SCHEMA, Stored, StoredLine, load

INDEPENDENT = (
    "The difference is that of the last report to the first. Its interval takes the two as independent measurements, "
    "which pairs of the same prompt and seed are not: then it is wider than it need be."
)


def compare(paths: Sequence[Path], folder: Path) -> Path:
    """Write compare.json and compare.html of stored reports, the first of which the last is held against.

    Returns:
        where the page is.

    Raises:
        RequestError: there are fewer than two reports, or one cannot be read (`load`).
    """
    if len(paths) < 2:
        raise RequestError("A comparison needs at least two reports; name them or the folders that hold them.")
    reports = [load(path) for path in paths]
    letters = [_letter(i) for i in range(len(reports))]
    rows = _figures(reports)
    lines, differs = [_line(row) for row in rows], _differences(reports)
    notes = [INDEPENDENT, *_unlike(rows), *_said(reports, letters)]
    told = {
        "schema": SCHEMA,
        "tuner": __version__,
        "reports": [r.model_dump(include={"suite", "title", "judged", "settings"}) for r in reports],
        "differs": [{"name": name, "values": values} for name, values in differs],
        "figures": [_json(row, line) for row, line in zip(rows, lines, strict=True)],
        "notes": notes,
    }
    write_json(folder / "compare.json", told)
    groups = page.tally(line for line in lines if line is not None and line.change is not None)
    figures = list(zip(rows, lines, strict=True))
    values = {
        "headline": page.headline(groups),
        "groups": groups,
        "figures": figures,
        "grids": _grids(reports, letters),
    }
    told = {"reports": reports, "letters": letters, "differs": differs, "notes": notes}
    write_text(folder / "compare.html", page.render("compare.html.jinja", **told, **values))
    return folder / "compare.html"


def difference(first: Figure, last: Figure) -> Figure | None:
    """last - first of independent figures; None where one is infinite or their units differ.

    The interval is made from both figures' own ones, which need not be symmetric: Newcombe 1998 (Statistics in
    Medicine 17, method 10), in general Zou & Donner 2008. From standard errors alone it is the usual sum of squares.
    """
    if first.unit != last.unit or not (math.isfinite(first.value) and math.isfinite(last.value)):
        return None
    value, n = last.value - first.value, min(first.n, last.n)
    one, two = interval(first), interval(last)
    if one is None or two is None:
        return Figure(last.name, value, n, unit=last.unit, warning="one of the two has no interval, so this has none")
    down, up = _sizes(last.value, two), _sizes(first.value, one)
    low, high = value - math.hypot(down[0], up[1]), value + math.hypot(down[1], up[0])
    return Figure(last.name, value, n, low, high, unit=last.unit)


def _sizes(value: float, ends: tuple[float, float]) -> tuple[float, float]:
    """How far the interval reaches below and above the value."""
    return max(0.0, value - ends[0]), max(0.0, ends[1] - value)


def _letter(place: int) -> str:
    return ascii_uppercase[place] if place < len(ascii_uppercase) else f"R{place + 1}"


def _figures(reports: Sequence[Stored]) -> list[list[StoredLine | None]]:
    """A row for each figure's name, a place in it for each report."""
    rows: dict[tuple[str, int], list[StoredLine | None]] = {}
    for place, report in enumerate(reports):
        seen: dict[str, int] = {}
        for line in report.figures:
            seen[line.name] = seen.get(line.name, 0) + 1
            key = line.name, seen[line.name]
            rows.setdefault(key, [None] * len(reports))[place] = line
    return list(rows.values())


def _line(row: Sequence[StoredLine | None]) -> Line | None:
    """The last report's figure held against the first's; None where one of them lacks it."""
    first, last = row[0], row[-1]
    if first is None or last is None:
        return None
    better = last.better if last.better == first.better else ""
    return Line(last.after, first.after, difference(first.after, last.after), better, last.about or first.about)


def _json(row: Sequence[StoredLine | None], line: Line | None) -> dict[str, Any]:
    known = next(found for found in row if found)
    change = line.change.json() if line and line.change else None
    return {
        "name": known.name,
        "about": known.about,
        "better": line.better if line else known.better,
        "verdict": line.verdict if line else "",
        "values": [found.after.json() if found else None for found in row],
        "change": change,
    }


def _differences(reports: Sequence[Stored]) -> list[tuple[str, list[str | int | float | None]]]:
    """What is not the same for all: the suite, the tuner, what was judged, the settings."""
    facts: list[Mapping[str, str | int | float | None]] = [
        {"suite": report.suite, "tuner": report.tuner, **report.judged, **report.settings} for report in reports
    ]
    names = dict.fromkeys(name for fact in facts for name in fact)
    rows = [(name, [fact.get(name, "") for fact in facts]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values)]


def _unlike(rows: Sequence[Sequence[StoredLine | None]]) -> Iterator[str]:
    """Figures of one name that cannot be held against each other."""
    for row in rows:
        first, last = row[0], row[-1]
        if first and last and first.after.unit != last.after.unit:
            yield f"{last.name}: the units differ, so there is no difference."
        if first and last and first.better != last.better:
            yield f"{last.name}: the reports do not agree on which way is better, so there is no verdict."


def _said(reports: Sequence[Stored], letters: Sequence[str]) -> Iterator[str]:
    """The reports' own notes; of what several say, which ones do."""
    by: dict[str, list[str]] = {}
    for report, letter in zip(reports, letters, strict=True):
        for note in report.notes:
            by.setdefault(note, []).append(letter)
    for note, whose in by.items():
        yield f"{', '.join(whose)}: {note}"


def _grids(
    reports: Sequence[Stored], letters: Sequence[str]
) -> list[tuple[str, str, list[tuple[str, list[page.Panel]]]]]:
    """Rows of the same grid and label side by side; a panel that several reports share stands once."""
    grids: dict[str, dict[str, dict[page.Panel, list[str]]]] = {}
    for report, letter in zip(reports, letters, strict=True):
        for grid in report.grids:
            rows = grids.setdefault(grid.title, {})
            for row in grid.rows:
                pictures = [report.picture(name) for name in row.pictures]
                for panel in page.panels(row.label, grid.columns, pictures):
                    rows.setdefault(row.label, {}).setdefault(panel, []).append(letter)
    return [
        (title, "", [(label, [_named(*found) for found in panels.items()]) for label, panels in rows.items()])
        for title, rows in grids.items()
    ]


def _named(panel: page.Panel, letters: Sequence[str]) -> page.Panel:
    return page.Panel(": ".join(filter(None, (", ".join(letters), panel.title))), panel.pictures)
