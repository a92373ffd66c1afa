"""Make a LoRA of what tells a tuned model from the one it was tuned from."""

from __future__ import annotations

import json
import shlex
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ..adapters.merge_request import RankOptions, check_out
from ..config import argument, common, option
from ..errors import RequestError
from .options import Command
from .options import command as command_of
from .show import Silent, showing

if TYPE_CHECKING:
    from ..adapters.extract import Extracted

ABOUT = f"""{__doc__}

Each layer's difference is brought to --rank, or to the rank that keeps --energy of it, by truncated singular value
decompositions; what is nothing but the rounding of the files is left out. What a LoRA cannot hold is told."""

RANK = 64
MOST = 3  # parameters that are left over and named

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic has a method `json` of old

    class Config(RankOptions):
        """Options of `tuner extract`."""

        panel: ClassVar[str] = "Options"

        tuned: list[str] = argument("The tuned model: a folder, a checkpoint or a Hub id.", "TUNED")
        from_: str = common("", "The model that it was tuned from.", "BASE")
        out: str = common("", "The file that is written.", "FILE")
        save_precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "Precision of the file.")
        json: bool = common(False, "Print the figures as JSON.")  # type: ignore[assignment]
        quiet: bool = option(False, "No progress.")


def command(words: list[str]) -> tuple[Command, list[str]]:
    """The command, and the words left for it."""
    return command_of("extract", Config, extract, ABOUT), words


def extract(config: Config) -> None:
    """Compare the models, and write the adapter."""
    if len(config.tuned) != 1 or not config.from_:
        raise RequestError("tuner extract takes a model and its base: tuner extract TUNED --from BASE --out FILE")
    config.check_one()
    check_out(config.out)
    from ..adapters.extract import extract as extracted
    from ..adapters.ground import load
    from ..adapters.truncate import Keep
    from ..randomness import use_threads
    from ..sampling.precision import DTYPES

    use_threads()
    out, dtype = Path(config.out), DTYPES[config.save_precision]
    keep = Keep(config.rank or (0 if config.energy else RANK), config.energy or 0.0)
    show = Silent() if config.json else showing(config.quiet)
    try:
        with show.working(f"Loading {config.tuned[0]} and {config.from_}"):
            tuned, base = load(config.tuned[0], ""), load(config.from_, "--from")
        found = extracted(tuned, base, keep, dtype, lambda done, total: show.count(done, total, "layer"))
        said = {**found.lora.metadata, "title": out.stem, "output_name": out.stem}
        replace(found.lora, metadata=said).to_kohya().save(out)
    finally:
        show.close()
    _tell(config, out, found)


def _tell(config: Config, out: Path, found: Extracted) -> None:
    from .merge_page import error_of, figures_of, lines_of_use, page, ranks, size_of

    notes = _left(found)
    if config.json:
        told = {"file": str(out), "tuned": config.tuned[0], "base": config.from_, "left": found.left}
        print(json.dumps({**told, **figures_of(found.figures, found.rounding), "notes": notes}, indent=2))
        return
    figures = list(found.figures.values())
    rows = {
        "base": config.from_,
        "modules": f"{len(figures):,}",
        "rank": ranks([figure.rank for figure in figures]),
        "relative error": error_of(figures, found.rounding),
        "size": size_of(out),
    }
    use = lines_of_use(shlex.quote(str(out)), "a picture", config.from_)
    page(out, f"What {config.tuned[0]} has learned, as a LoRA", rows, notes, use)


def _left(found: Extracted) -> list[str]:
    """What of the difference no adapter holds."""
    if not found.left:
        return []
    named = sorted(found.left, key=lambda name: -found.left[name])[:MOST]
    told = ", ".join(f"{name} by {found.left[name]:.2g}" for name in named)
    more = f" and {len(found.left) - MOST} more" if len(found.left) > MOST else ""
    return [f"Not in the file, as no adapter holds it: {told}{more} (relative to their size)."]
