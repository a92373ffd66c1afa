"""Train by a recipe file of your own: tuner run FILE.py [OPTIONS]."""

import shlex
from pathlib import Path
from typing import Any

from ..errors import RequestError
from .options import Command
from .options import command as command_of

ABOUT = f"""{__doc__}

The file holds a docstring, a class `Config` with its options, and a subclass of `tuner.recipe.Recipe`. What options it
has is shown by `tuner run FILE.py --help`; those below are shared by all recipes."""


def command(words: list[str]) -> tuple[Command, list[str]]:
    """The command of the recipe file that comes first among the words."""
    if words and not words[0].startswith("-"):
        from .train import command as training

        file, *rest = words
        stored = f"run {shlex.quote(_from_here(Path(file)))}"
        return training(f"run {file}", Path(file), stored), rest
    return _without_file(), words


def _from_here(file: Path) -> str:
    """A path that stays right where it can: relative below the folder in which the run is made, like `runs/`."""
    whole = file.resolve()
    return str(whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole)


def _without_file() -> Command:
    """What shows the help of `tuner run` itself."""
    from ..recipe import TrainConfig

    def refuse(_: Any) -> None:
        raise RequestError("tuner run needs a recipe file, and needs it first: tuner run FILE.py --images DIR.")

    made = command_of("run", TrainConfig, refuse, ABOUT)
    made.options_metavar = "FILE.py [OPTIONS]"
    return made
