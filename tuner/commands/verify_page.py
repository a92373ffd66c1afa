"""The page that `tuner verify` shows: a line a program, and what is wrong under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .help import WIDEST

if TYPE_CHECKING:
    from ..adapters.verify import Landing, Verification

MOST = 5  # problems of a program before the list is cut
_KINDS = {
    "lora": "LoRA", "dora": "DoRA", "loha": "LoHa", "lokr": "LoKr", "full": "full differences",
    "word": "a token's vectors",
}  # fmt: skip


def page(found: Verification, base: str, family: str) -> None:
    """Print the page."""
    console = Console(highlight=False)
    width = min(console.width, WIDEST)
    kinds = " and ".join(_KINDS[kind] for kind in sorted(found.kinds)) or "an adapter"
    naming = {"kohya": " in kohya's naming", "diffusers": " in diffusers' naming"}.get(found.naming, "")
    unit = "modules" if found.naming else "vectors"
    headline = f"{kinds}{naming}, on {base} ({family})"
    console.print("", Text(found.path.name, "bold cyan"), Text(headline, "bold"), "", sep="\n", width=width)
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for program, landing in found.landings.items():
        mark, verdict = _verdict(landing, program in found.meant)
        table.add_row(mark, Text(program, "bold"), Text(f"{landing.landed} of {landing.total} {unit}"), verdict)
    console.print(Padding(table, (0, 0, 0, 2)), width=width)
    common = _common([landing.problems for landing in found.landings.values()])
    _problems(console, width, "The file", common)
    for program, landing in found.landings.items():
        _problems(console, width, program, [told for told in landing.problems if told not in common])
    programs = ", ".join(found.meant)
    end = f"Whole in what it is for: {programs}." if found.whole else f"Not whole in what it is for: {programs}."
    console.print(Text(f"\n{end}", "bold green" if found.whole else "bold red"), width=width)


def _verdict(landing: Landing, meant: bool) -> tuple[Text, Text]:
    if landing.whole:
        return Text("✓", "green"), Text("whole", "green")
    if meant:
        return Text("✗", "bold red"), Text("not whole", "bold red")
    return Text("·", "dim"), Text("not for this program", "dim")


def _common(lists: Sequence[Sequence[str]]) -> list[str]:
    """The problems that all programs have: they are the file's."""
    first, *others = lists
    return [told for told in first if all(told in other for other in others)]


def _problems(console: Console, width: int, title: str, problems: Sequence[str]) -> None:
    if not problems:
        return
    console.print(Text(f"\n{title}", "bold"))
    shown = [*problems[:MOST], *([f"and {len(problems) - MOST} more"] if len(problems) > MOST else [])]
    for told in shown:
        console.print(Padding(Text("".join(c if c.isprintable() else "?" for c in told)), (0, 0, 0, 2)), width=width)
