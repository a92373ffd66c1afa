"""The command line. What takes seconds to import is imported when a command that needs it is called.

A command is a recipe file (see `tuner.recipe`), or a module here that is named in `COMMANDS`: the first line of its
docstring is the summary, and its `command(words)` gives the command itself and the words that are left for it.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from .. import __version__
from ..errors import RequestError
from ..places import place
from .help import show_group
from .manners import guarded
from .recipes import recipe_file, summaries, summary

TRAIN, USE, ADAPTERS = "Train", "Use", "Adapters"
COMMANDS = {
    "run": TRAIN, "demo": TRAIN, "generate": USE, "evaluate": USE, "check": USE, "merge": ADAPTERS,
    "extract": ADAPTERS, "resize": ADAPTERS, "convert": ADAPTERS, "inspect": ADAPTERS, "verify": ADAPTERS,
}  # fmt: skip


class Stub(TyperCommand):
    """A command's name and summary. Building the command itself may import torch, so that waits until it is called."""

    def real(self, words: list[str]) -> tuple[TyperCommand, list[str]]:
        """The command itself, and the words of the command line that are left for it."""
        from .quiet import turn_down

        assert self.name
        turn_down()
        if self.name in COMMANDS:
            return importlib.import_module(f".{self.name}", __package__).command(words)
        from .train import command

        return command(self.name, recipe_file(place("recipes"), self.name)), words


class Group(TyperGroup):
    """All commands. Errors end here: one sentence, and the exit code."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> NoReturn:
        words = list(sys.argv[1:] if args is None else args)
        ours = words[: words.index("--")] if "--" in words else words
        debug = "--debug" in ours
        left = [word for word in ours if word != "--debug"] + words[len(ours) :]
        run = super().main
        sys.exit(guarded(lambda: run(left, prog_name="tuner", standalone_mode=False), words, debug))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        command = self.commands.get(args[0])
        if command is None:
            close = difflib.get_close_matches(args[0].lower().replace("_", "-"), self.commands, 1)
            hint = f"did you mean {close[0]}?" if close else "`tuner --help` lists them."
            raise RequestError(f"There is no command {args[0]}; {hint}")
        if isinstance(command, Stub):
            command, rest = command.real(args[1:])
            return command.name, command, rest
        return command.name, command, args[1:]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        show_group(self, ctx)


app = typer.Typer(cls=Group, add_completion=False, context_settings={"help_option_names": ["--help", "-h"]})


@app.callback(invoke_without_command=True)
def _before(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    """Fine-tune, distill, edit and merge latent diffusion models, and prove what each edit did."""
    if version:
        typer.echo(f"tuner {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        show_group(context.command, context)  # type: ignore[arg-type]


def _stand_in() -> None:
    """Never called: the stub gives way to its command."""


for _name, _summary in summaries(place("recipes")).items():
    app.command(_name, cls=Stub, help=_summary, rich_help_panel=TRAIN)(_stand_in)
for _name, _panel in COMMANDS.items():
    _summary = summary(Path(__file__).with_name(f"{_name}.py"))
    app.command(_name, cls=Stub, help=_summary, rich_help_panel=_panel)(_stand_in)


def main() -> NoReturn:
    """The console script."""
    app()
    raise AssertionError("unreachable: the group exits")
