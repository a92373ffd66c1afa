"""The screen in the end of merge, extract, resize and convert: what was written, what it cost, how to use it."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..adapters.provenance import drawn_with
from .help import WIDEST
from .inspect_page import size_in_words

if TYPE_CHECKING:
    from ..adapters.merge import Figure, Merged, Way
    from ..adapters.merge_request import Config
    from ..adapters.weighted import Weighted


def page(out: Path, headline: str, rows: Mapping[str, str], notes: Sequence[str], use: Sequence[str]) -> None:
    """Print the screen.

    Args:
        out: what was written.
        headline: what it is.
        rows: figures by label; empty ones are left out.
        notes: sentences to know.
        use: lines for the shell.
    """
    console = Console(highlight=False)
    width = min(console.width, WIDEST)
    console.print("", Text(str(out), "bold cyan"), Text(headline, "bold"), "", sep="\n", width=width)
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True, max_width=34)
    table.add_column(overflow="fold")
    for label, value in rows.items():
        if value:
            table.add_row(Text(label), Text(value))
    console.print(Padding(table, (0, 0, 0, 2)), width=width)
    if notes:
        console.print(Text("\nGood to know", "bold yellow"))
        for note in notes:
            console.print(Padding(Text(note), (0, 0, 0, 2)), width=width)
    console.print("")
    for line in use:  # not folded: lines for the shell are copied
        console.print(Text(line), soft_wrap=True)


def ranks(found: Sequence[int]) -> str:
    """`16`, or `8 to 64, mostly 32`."""
    known = [rank for rank in found if rank]
    if not known:
        return ""
    most = Counter(known).most_common(1)[0][0]
    return str(most) if len(set(known)) == 1 else f"{min(known)} to {max(known)}, mostly {most}"


def percent(error: float) -> str:
    """A relative error: `3.1%`, `0.00012%`, `none`."""
    return f"{100 * error:.2g}%" if error else "none"


def size_of(path: Path) -> str:
    """What a file or a folder takes."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return size_in_words(sum(file.stat().st_size for file in files))


def tell(config: Config, adapters: Sequence[Weighted], merged: Merged | None, way: Way, notes: Sequence[str]) -> None:
    """A merge's figures, as JSON or as a screen."""
    out, first = Path(config.out), adapters[0].source
    if config.json:
        print(json.dumps(_facts(out, config.method, adapters, merged, notes), indent=2, ensure_ascii=False))
        return
    count = f"{len(adapters)} adapters" if len(adapters) > 1 else "One adapter"
    what = f"{count} in {config.into}" if config.into else f"{count} merged" if merged else "The adapter as it was"
    prompt, path = first.described.trigger or "a picture", shlex.quote(str(out))
    if config.into:
        drawn = drawn_with([adapter.source for adapter in adapters], config.into)  # a single file cannot say it itself
        use = [f"tuner generate {shlex.quote(prompt)} --base {path}" + (f" {drawn.flags}" if drawn else "")]
    else:
        use = lines_of_use(path, prompt, config.base or first.described.metadata.get("tuner.base", ""))
    page(out, f"{what} ({config.method})", _rows(out, adapters, merged, way, bool(config.into)), notes, use)


def lines_of_use(path: str, prompt: str, base: str) -> list[str]:
    """How a file is used: drawn with, and verified."""
    flags = "" if base == "emoji" else f" --base {shlex.quote(base or 'BASE')}"
    return [f"tuner generate {shlex.quote(prompt)} --adapter {path}{flags}", f"tuner verify {path}{flags}"]


def _rows(out: Path, adapters: Sequence[Weighted], merged: Merged | None, way: Way, baked: bool) -> dict[str, str]:
    """What a merge's screen shows. An error is that of a truncation, or of the file's precision."""
    parts = []
    for adapter in adapters:
        own = "".join(f", {weight:g} in {block}" for block, weight in adapter.blocks.items())
        parts.append(f"{adapter.source.path.name} at {adapter.weight:g}{own}")
    found = list(merged.figures.values()) if merged else []
    exact = way.method == "exact" and not baked
    return {
        "made of": "; ".join(parts),
        "modules": f"{len(found or adapters[0].source.modules):,}",
        "rank": "" if baked else ranks([figure.rank for figure in found]),
        "relative error": error_of(found, merged.rounding if merged else 0.0) if way.keep or exact else "",
        "size": size_of(out),
    }


def total_error(figures: Sequence[Figure]) -> float:
    """The relative Frobenius error over all modules."""
    size = sum(figure.size for figure in figures)
    return (sum(figure.lost for figure in figures) / size) ** 0.5 if size else 0.0


def error_of(figures: Sequence[Figure], rounding: float) -> str:
    """`3.1% (worst module 7%), and 0.02% by the file's precision`."""
    error = total_error(figures)
    worst = max((figure.error for figure in figures), default=0.0)
    told = f"{percent(error)} (worst module {percent(worst)})" if error else "none"
    return told + (f", and {percent(rounding)} by the file's precision" if rounding else "")


def _facts(
    out: Path, method: str, adapters: Sequence[Weighted], merged: Merged | None, notes: Sequence[str]
) -> dict[str, Any]:
    """Everything about a merge, as data."""
    made = [
        {"file": str(adapter.source.path), "weight": adapter.weight, "blocks": dict(adapter.blocks)}
        for adapter in adapters
    ]
    figures = figures_of(merged.figures if merged else {}, merged.rounding if merged else 0.0)
    return {"file": str(out), "method": method, "adapters": made, **figures, "notes": list(notes)}


def figures_of(found: Mapping[str, Figure], rounding: float) -> dict[str, Any]:
    """The figures of every module, and those of the whole."""
    return {
        "error": total_error(list(found.values())), "rounding": rounding,
        "modules": {name: {"rank": figure.rank, "error": figure.error} for name, figure in found.items()},
    }  # fmt: skip
