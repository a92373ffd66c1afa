"""The page that `tuner inspect` shows: calm, in two columns, from 80 columns upwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .help import WIDEST

if TYPE_CHECKING:
    from ..adapters.depth import Depth
    from ..adapters.describe import Description

BAR = 28  # columns of the longest bar
MOST = 8  # lines of a list before it is cut
LINES = 16  # of the header
_LONG = 150  # characters of a value in the header
_TOLD = (
    "modelspec.sai_model_spec", "modelspec.implementation", "modelspec.architecture", "modelspec.trigger_phrase",
    "ss_base_model_version", "ss_v2", "ss_network_dim", "ss_network_alpha", "ss_output_name", "tuner.base", "format",
    "lora_adapter_metadata", "tuner.dora_norm", "tuner.token", "tuner.was",
)  # fmt: skip


def page(path: Path, found: Description, deep: Depth | None) -> None:
    """Print the page."""
    console = Console(highlight=False)
    width = min(console.width, WIDEST)
    console.print(Text(path.name, "bold cyan"), Text(_headline(found), "bold"), "", sep="\n", width=width)
    console.print(_table(_rows(found)), width=width)
    said = _header(found.metadata)
    if said:
        console.print(Text("\nIts header also says", "bold"))
        console.print(_table(said, "dim"), width=width)
    if deep is not None:
        _deep(console, width, found, deep)
    if found.warnings:
        console.print(Text("\nGood to know", "bold yellow"))
        for warning in found.warnings:
            console.print(Padding(Text(warning), (0, 0, 0, 2)), width=width)


def _headline(found: Description) -> str:
    """`LoRA for Stable Diffusion 1.x, in kohya's naming`."""
    family = f" for {found.title}" if found.title else ""
    naming = f", in {found.naming}'{'' if found.naming.endswith('s') else 's'} naming" if found.naming else ""
    return f"{found.kind}{family}{naming}"


def _rows(found: Description) -> dict[str, str]:
    """What is told of the file, by label; what is not known is left out."""
    modules = ", ".join(f"{name} {count:,}" for name, count in found.networks.items())
    rows = {
        "made on": found.base,
        "words": found.trigger,
        "vectors": str(found.vectors or ""),
        "modules": modules,
        "rank": _counted(found.ranks),
        "alpha": _alpha(found),
        "precision": ", ".join(found.precisions),
        "size": f"{size_in_words(found.size)} in {found.tensors:,} tensor{'s' * (found.tensors != 1)}",
    }
    return {label: value for label, value in rows.items() if value}


def _counted(found: Mapping[int, int] | Mapping[float, int]) -> str:
    """`16`, or `16 in 60 modules, 8 in 4`."""
    words = [(f"{value:g}", count) for value, count in found.items()]
    if len(words) == 1:
        return words[0][0]
    told = [f"{value} in {count:,}{' modules' * (not i)}" for i, (value, count) in enumerate(words[:4])]
    return ", ".join(told) + (f" and {len(words) - 4} more" if len(words) > 4 else "")


def _alpha(found: Description) -> str:
    if not found.ranks:
        return ""
    lacking = f"{found.without_alpha:,} modules have none" if found.alphas else "none"
    told = [_counted(found.alphas), lacking if found.without_alpha else ""]
    return ", ".join(filter(None, told))


def size_in_words(size: int) -> str:
    """`3.4 MB`."""
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if unit != "bytes" else f"{size} bytes"


def _header(metadata: Mapping[str, str]) -> dict[str, str]:
    """The header's strings but for hashes and what is told above; long ones cut, what is JSON without its marks."""
    left = {name: _short(value) for name, value in sorted(metadata.items()) if name not in _TOLD and "hash" not in name}
    left = {name: value for name, value in left.items() if value}
    shown = dict(list(left.items())[:LINES])
    return shown | ({"...": f"and {len(left) - LINES} more, which --json shows"} if len(left) > LINES else {})


def _short(value: str) -> str:
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    if isinstance(parsed, dict):
        value = ", ".join(f"{key} {told}" for key, told in parsed.items() if told not in ("", None, [], {}))
    value = " ".join(value.split())
    return value if len(value) <= _LONG else f"{value[:_LONG]} ..."


def _plain(text: str) -> str:
    """What a terminal may be shown of a stranger's file."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _table(rows: Mapping[str, str], style: str = "") -> Padding:
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True, max_width=34)
    table.add_column(style=style, overflow="fold")
    for label, value in rows.items():
        table.add_row(Text(_plain(label)), Text(_plain(value)))
    return Padding(table, (0, 0, 0, 2))


def _deep(console: Console, width: int, found: Description, deep: Depth) -> None:
    """A chart of the norms, and what is wrong with the tensors."""
    what = "How strongly each part changes" if found.naming else "How large the values of each part are"
    console.print(Text(f"\n{what}", "bold"), Text(" (norm, modules)" if found.naming else " (norm, tensors)", "dim"))
    most = max((norm for norm, _ in deep.norms.values()), default=0.0)
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for part, (norm, count) in list(deep.norms.items())[:40]:
        bar = "█" * round(BAR * norm / most) if most else ""
        told = Text(f"{norm:.3g}"), Text(f"{count}", "dim")
        table.add_row(Text(_plain(part.replace("_", " "))), Text(bar or "▏", "cyan"), *told)
    console.print(Padding(table, (0, 0, 0, 2)), width=width)
    for names, words in ((deep.zero, "change nothing"), (deep.broken, "hold values that are not finite")):
        if names:
            console.print(Text(f"\n{len(names)} {words}", "bold red"))
            shown = "\n".join(
                [*map(_plain, names[:MOST]), *([f"and {len(names) - MOST} more"] if len(names) > MOST else [])]
            )
            console.print(Padding(Text(shown, "dim"), (0, 0, 0, 2)), width=width)
