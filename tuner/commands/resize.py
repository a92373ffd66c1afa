"""Bring an adapter to another rank: more exactly, fewer by truncated singular value decompositions."""

from __future__ import annotations

import json
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ..adapters.merge_request import RankOptions, check_out
from ..config import argument, common, option
from ..errors import RequestError
from .options import Command
from .options import command as command_of
from .show import Silent, showing

if TYPE_CHECKING:
    from ..adapters.merge import Merged
    from ..adapters.source import Source

ABOUT = f"""{__doc__}

More ranks are zeros, and change nothing. Alpha goes with the rank, so that the strength stays. LoHa, LoKr and whole
differences become LoRA; a DoRA keeps its magnitudes, and needs its base."""

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic has a method `json` of old

    class Config(RankOptions):
        """Options of `tuner resize`."""

        panel: ClassVar[str] = "Options"

        file: list[str] = argument("The adapter.", "FILE")
        out: str = common("", "The file that is written.", "FILE")
        base: str = common("", "The model that it is for, where the file does not suffice (DoRA).", "BASE")
        save_precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
            "auto", "Precision of the file; auto is the adapter's."
        )
        json: bool = common(False, "Print the figures as JSON.")  # type: ignore[assignment]
        quiet: bool = option(False, "No progress.")


def command(words: list[str]) -> tuple[Command, list[str]]:
    """The command, and the words left for it."""
    return command_of("resize", Config, resize, ABOUT), words


def resize(config: Config) -> None:
    """Write the adapter at the other rank."""
    if len(config.file) != 1:
        raise RequestError(f"tuner resize takes one file, not {len(config.file) or 'none'}: tuner resize FILE --rank N")
    config.check_one()
    if config.rank is None and config.energy is None:
        raise RequestError("tuner resize needs --rank N or --energy X: how much is to be kept.")
    check_out(config.out)
    from ..adapters.ground import Ground
    from ..adapters.merge_file import resized
    from ..adapters.resize import resize as resize_source
    from ..adapters.source import opened
    from ..adapters.truncate import Keep
    from ..randomness import use_threads
    from ..sampling.precision import DTYPES

    use_threads()
    keep = Keep(config.rank or 0, config.energy or 0.0)
    made = {"method": "resize", **({"rank": keep.rank} if keep.rank else {"energy": keep.energy})}
    show = Silent() if config.json else showing(config.quiet)
    try:
        with opened([Path(config.file[0])]) as (source,):
            ground = Ground(config.base, [source])
            dtype = DTYPES.get(config.save_precision, source.precision)
            found = resize_source(source, ground, keep, dtype, lambda n, total: show.count(n, total, "module"))
            out = Path(config.out)
            resized(found, source, ground, made, out).save(out)
            show.close()
            _tell(config, source, found)
    finally:
        show.close()


def _tell(config: Config, source: Source, found: Merged) -> None:
    from .merge_page import error_of, figures_of, lines_of_use, page, ranks, size_of

    out = Path(config.out)
    if config.json:
        print(json.dumps({"file": str(out), **figures_of(found.figures, found.rounding)}, indent=2))
        return
    figures = list(found.figures.values())
    before = ranks([rank for rank, count in source.described.ranks.items() for _ in range(count)])
    rows = {
        "rank": f"{ranks([figure.rank for figure in figures])} (was {before or 'none'})",
        "modules": f"{len(figures):,}",
        "relative error": error_of(figures, found.rounding),
        "size": f"{size_of(out)} (was {size_of(source.path)})",
    }
    base = config.base or source.described.metadata.get("tuner.base", "")
    use = lines_of_use(shlex.quote(str(out)), source.described.trigger or "a picture", base)
    page(out, f"{source.path.name} at another rank", rows, [], use)
