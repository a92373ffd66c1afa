"""Prove that an adapter lands whole in diffusers, ComfyUI and A1111."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..config import Options, argument, common, option
from ..errors import RequestError
from .options import Command
from .options import command as command_of
from .show import Silent, showing

if TYPE_CHECKING:
    from ..adapters.verify import Verification

ABOUT = f"""{__doc__}

diffusers loads the file and every layer is compared with it; what ComfyUI and A1111 do is told from their sources. The
exit code is 0 where each program that the file is for takes all of it, 1 where one does not, 2 where the file cannot be
read. A file in diffusers' naming is for diffusers alone, LoHa and LoKr in kohya's for ComfyUI and A1111, DoRA for
ComfyUI: what other programs make of it is reported and is no failure."""

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic has a method `json` of old

    class Config(Options):
        """Options of `tuner verify`."""

        file: list[str] = argument("The adapter.", "FILE")
        base: str = common("emoji", "The model that it is for: emoji, a folder, a checkpoint, or a Hub id.", "BASE")
        json: bool = common(False, "Print everything as JSON.")  # type: ignore[assignment]
        quiet: bool = option(False, "No progress.")


def command(words: list[str]) -> tuple[Command, list[str]]:
    """The command, and the words left for it."""
    return command_of("verify", Config, verify, ABOUT), words


def verify(config: Config) -> None:
    """Load the file, and show what lands where."""
    if len(config.file) != 1:
        raise RequestError(f"tuner verify takes one file, not {len(config.file) or 'none'}: tuner verify FILE")
    path = Path(config.file[0])
    from ..adapters.container import read_header

    read_header(path)  # before a base is loaded in vain
    from ..adapters.ground import load
    from ..adapters.verify import verify as verified

    show = Silent() if config.json else showing(config.quiet)
    try:
        with show.working(f"Loading the base {config.base}"):
            base = load(config.base, "--base")
        with show.working(f"Loading {path.name} into it"):
            found = verified(path, base)
    finally:
        show.close()
    if config.json:
        print(json.dumps(_facts(config, found), indent=2, ensure_ascii=False))
    else:
        from .verify_page import page

        page(found, config.base, base.family.title)
    if not found.whole:
        raise typer.Exit(1)


def _facts(config: Config, found: Verification) -> dict[str, Any]:
    """Everything, as data."""
    programs = {
        program: {
            "for": program in found.meant, "landed": landing.landed, "total": landing.total, "whole": landing.whole,
            "problems": list(landing.problems),
        }
        for program, landing in found.landings.items()
    }  # fmt: skip
    kinds = sorted(found.kinds)
    return {
        "file": str(found.path), "base": config.base, "naming": found.naming, "kinds": kinds, "whole": found.whole,
        "programs": programs,
    }  # fmt: skip
