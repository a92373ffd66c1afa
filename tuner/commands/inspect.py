"""Tell what a .safetensors file is: its kind, family, ranks, alphas and words."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.describe import Description, describe
from ..config import Options, argument, common
from ..errors import RequestError
from .options import Command
from .options import command as command_of

if TYPE_CHECKING:
    from ..adapters.depth import Depth

ABOUT = f"""{__doc__}

The header tells it, at once and for files of any size. With --deep the tensors are read as well: how strongly each part
of the model changes, and which modules are zero or broken."""

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic has a method `json` of old

    class Config(Options):
        """Options of `tuner inspect`."""

        file: list[str] = argument("The .safetensors file.", "FILE")
        deep: bool = common(False, "Read the tensors too.")
        json: bool = common(False, "Print everything as JSON.")  # type: ignore[assignment]


def command(words: list[str]) -> tuple[Command, list[str]]:
    """The command, and the words left for it."""
    return command_of("inspect", Config, inspect, ABOUT), words


def inspect(config: Config) -> None:
    """Show what the file is."""
    if len(config.file) != 1:
        raise RequestError(f"tuner inspect takes one file, not {len(config.file) or 'none'}: tuner inspect FILE")
    path = Path(config.file[0])
    found, deep = describe(path), None
    if config.deep:
        from ..adapters.depth import depth

        deep = depth(path)
    if config.json:
        print(json.dumps(_facts(path, found, deep), indent=2, ensure_ascii=False))
        return
    from .inspect_page import page

    page(path, found, deep)


def _facts(path: Path, found: Description, deep: Depth | None) -> dict[str, Any]:
    """Everything, as data."""
    facts = {"file": str(path), **asdict(found)}
    if deep is not None:
        norms = {part: {"norm": round(norm, 6), "modules": count} for part, (norm, count) in deep.norms.items()}
        facts["deep"] = {"norms": norms, "zero": deep.zero, "broken": deep.broken}
    return facts
