"""The page that `tuner check` shows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..data.findings import Finding, many, sizes_of
from ..data.survey import Survey

WIDEST = 110  # longer lines are hard to read
NAMED = 8  # names a finding; all of them are in --json
BAR = 24
SIGNS = {"stops": ("✗", "bold red"), "left out": ("✗", "red"), "warning": ("!", "yellow"), "note": ("·", "dim")}


def page(found: Survey, base: str, resolution: int, console: Console | None = None) -> None:
    """Print what was found: the buckets, the findings with their remedies, the verdict."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = 4096  # lines in a log are never broken
    with console.capture() as page:
        _page(found, base, resolution, console)
    print("\n".join(line.rstrip() for line in page.get().splitlines()), file=console.file)


def _page(found: Survey, base: str, resolution: int, console: Console) -> None:
    width = min(console.width, WIDEST) if console.is_terminal else console.width
    root = f"{Path(found.audit.options.images)}/"

    def show(*parts: object, indent: int = 2) -> None:
        for part in parts:
            console.print(Padding(part, (0, 0, 0, indent), expand=False) if part else "", width=width)  # type: ignore[arg-type]

    show("", Text(_title(found), "bold"), Text(f"for {base} at {resolution} pixels", "dim"), "")
    if found.audit.pictures:
        show(_buckets(sizes_of(found.audit)), "")
    for point in found.findings:
        show(_finding(point, root), "")
    show(_verdict(found), "")


def _title(found: Survey) -> str:
    pictures = found.audit.pictures
    visits = sum(picture.example.repeats for picture in pictures)
    often = f", {visits} visits an epoch" if visits != len(pictures) else ""
    return f"{found.audit.options.images}: {many(pictures, 'picture', 'to train on')}{often}"


def _buckets(sizes: Counter[tuple[int, int]]) -> Table:
    """A line for each size that pictures train at, with a bar."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    most = max(sizes.values())
    for (width, height), count in sizes.items():
        bar = "━" * max(1, round(BAR * count / most))
        table.add_row(Text(f"{width} x {height}"), Text(str(count), "bold"), Text(bar, "cyan"))
    return table


def _finding(point: Finding, root: str) -> Table:
    """What it is, which pictures it is about, what to do."""
    sign, style = SIGNS[point.grade]
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=1)
    table.add_column()
    table.add_row(
        Text(sign, style), Text(f"{point.about[:1].upper()}{point.about[1:]}", "" if style == "dim" else "bold")
    )
    for name in point.names[:NAMED]:
        table.add_row("", Text(name.replace(root, ""), "dim"))
    if len(point.names) > NAMED:
        table.add_row("", Text(f"and {len(point.names) - NAMED} more; --json lists all", "dim"))
    if point.remedy:
        table.add_row("", Text(f"→ {point.remedy}"))
    return table


def _verdict(found: Survey) -> Text:
    if found.obstacle:
        return Text.assemble(("Not usable yet. ", "bold red"), "Training would say: ", found.obstacle)
    grades = Counter(point.grade for point in found.findings)
    if grades["left out"] or grades["warning"]:
        looked = grades["left out"] + grades["warning"]
        return Text.assemble(("Usable. ", "bold green"), f"Worth a look before training: {looked} of the points above.")
    return Text.assemble(("Usable. ", "bold green"), "Nothing stands in the way.")
