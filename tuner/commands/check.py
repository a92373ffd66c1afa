"""Audit a folder of pictures: what training will use, how often, and what is wrong with the rest."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import typer

from ..config import argument, common
from ..data.options import FolderOptions
from ..errors import RequestError
from .options import Command
from .options import command as command_of
from .show import Silent, showing

if TYPE_CHECKING:
    from ..data.survey import Survey

ABOUT = f"""{__doc__}

It reads with the code that training reads with, so the two cannot disagree. Every picture is decoded once. The exit
code is 0 where the folder can be trained on, 1 where it cannot, 2 where there is no folder, or no picture in it."""

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic has a method `json` of old

    class Config(FolderOptions):
        """Options of `tuner check`."""

        folder: list[str] = argument("The folder, or the id of a data set of the Hub.", "DIR")
        base: str = common("emoji", "The base that is to be trained: its resolution and its longest caption.", "BASE")
        json: bool = common(False, "Print everything as JSON.")  # type: ignore[assignment]
        quiet: bool = common(False, "No progress bar.")


def command(words: list[str]) -> tuple[Command, list[str]]:
    """The command, and the words left for it."""
    return command_of("check", Config, check, ABOUT), words


def check(config: Config) -> None:
    """Look at the folder and show what was found."""
    given = [*config.folder, *([config.images] if config.images else [])]
    if len(given) != 1:
        raise RequestError(f"tuner check takes one folder, not {len(given) or 'none'}: tuner check my_pictures/")
    from ..data.glance import glance
    from ..data.survey import survey

    options = config.model_copy(update={"images": given[0]})
    show = Silent() if config.json else showing(config.quiet)
    try:
        base = glance(config.base)
        found = survey(options, base, lambda done, total: None if config.json else show.count(done, total, "picture"))
    finally:
        show.close()
    if config.json:
        print(json.dumps(_facts(config, found, options.resolution or base.resolution, base.reader.length), indent=2))
    else:
        from .check_page import page

        page(found, config.base, options.resolution or base.resolution)
    if found.obstacle:
        raise typer.Exit(1)


def _facts(config: Config, found: Survey, resolution: int, tokens: int) -> dict[str, Any]:
    """Everything, as data."""
    from ..data.findings import sizes_of

    pictures, captions = found.audit.pictures, found.audit.captions()
    return {
        "images": found.audit.options.images,
        "base": config.base,
        "resolution": resolution,
        "tokens": tokens,
        "usable": not found.obstacle,
        "obstacle": found.obstacle,
        "pictures": [
            {
                "name": picture.name,
                "caption": caption,
                "visits": picture.example.repeats,
                "size": picture.place.original,
                "bucket": picture.place.bucket,
                "lost": round(picture.place.lost, 4),
                "enlarged": picture.place.enlarged,
            }
            for picture, caption in zip(pictures, captions, strict=True)
        ],
        "buckets": [{"size": size, "visits": visits} for size, visits in sizes_of(found.audit).items()],
        "findings": [
            {"kind": f.kind, "grade": f.grade, "about": f.about, "names": f.names, "remedy": f.remedy}
            for f in found.findings
        ],
    }
