"""The help screens: the options in panels of two columns, the same from 80 columns upwards."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import typer
    from typer.core import TyperCommand, TyperGroup

Row = tuple[Text, Text]
EVERYWHERE = "Everywhere"
DEBUG = ("--debug", "Show the full traceback of an error.")
HELP = ("--help", "Show this screen.")
WIDEST = 110  # longer lines are hard to read


def show_group(group: TyperGroup, context: typer.Context) -> None:
    """The commands with their summaries, and the options that stand before a command."""
    panels: dict[str, list[Row]] = defaultdict(list)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            panels[panel].append((Text(name, "bold cyan"), Text(command.help or "")))
    panels[EVERYWHERE] += [_words("--version", "Show the version."), _words(*DEBUG), _words(*HELP)]
    usage = Text.assemble(("Usage: ", "bold"), context.command_path, " COMMAND [OPTIONS]")
    _show(usage, group.help or "", panels, "`tuner COMMAND --help` shows the options of a command.")


def show_command(command: TyperCommand, context: typer.Context) -> None:
    """A command's options, panel by panel."""
    panels: dict[str, list[Row]] = defaultdict(list)
    for parameter in command.params:
        if not getattr(parameter, "hidden", False):
            panels[getattr(parameter, "rich_help_panel", None) or "Options"].append(_row(parameter))
    panels[EVERYWHERE] += [_words(*DEBUG), _words(*HELP)]
    pieces = " ".join(command.collect_usage_pieces(context))
    usage = Text.assemble(("Usage: ", "bold"), context.command_path, " ", pieces)
    _show(usage, command.help or "", panels)


def _row(parameter: Any) -> Row:
    """A parameter's name and what it does."""
    if parameter.param_type_name == "argument":
        return Text(f"{parameter.metavar}...", "bold cyan"), Text(parameter.help or "")
    on = parameter.show_default == "on"  # of a flag that is on by default, the one that turns it off is of use
    left = Text((parameter.secondary_opts if on else parameter.opts)[0], "bold cyan")
    if parameter.metavar:
        left.append(f" {parameter.metavar}", "yellow")
    right = Text(parameter.help or "")
    if parameter.show_default:
        right.append(f" [{parameter.show_default}]", "dim")
    return left, right


def _words(name: str, summary: str) -> Row:
    return Text(name, "bold cyan"), Text(summary)


def _show(usage: Text, about: str, panels: Mapping[str, Sequence[Row]], last: str = "") -> None:
    console = Console(highlight=False)
    width = min(console.width, WIDEST)
    first, *rest = [" ".join(part.split()) for part in inspect.cleandoc(about).split("\n\n")]
    words = [usage, Text(first), *(Text(part, "dim") for part in rest)]
    console.print(*words, sep="\n\n", end="\n\n", width=width)
    names = max(len(name) for rows in panels.values() for name, _ in rows)
    for title, rows in panels.items():
        table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(no_wrap=True, width=min(names, width // 2))
        table.add_column()
        for row in rows:
            table.add_row(*row)
        panel = Panel(table, title=title, title_align="left", border_style="dim", box=box.ROUNDED, width=width)
        console.print(panel)
    if last:
        console.print(Text(last, "dim"), width=width)
