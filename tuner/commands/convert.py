"""Bring an adapter into the other naming, without loss: kohya's for ComfyUI and A1111, or diffusers'."""

from __future__ import annotations

import json
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..adapters.merge_request import check_out
from ..config import Options, argument, common, option
from ..errors import RequestError
from .options import Command
from .options import command as command_of
from .show import Silent, showing

if TYPE_CHECKING:
    from ..adapters.convert import Converted
    from ..adapters.ground import Ground
    from ..adapters.source import Source

ABOUT = f"""{__doc__}

Every tensor keeps its bits, alphas, magnitudes and convolutions included, and the header what the other naming has no
room for: converting back gives the file again, which is tried before the command ends. What diffusers does not load
(LoHa, LoKr, whole differences) becomes LoRA there, exactly. Files of peft's save_pretrained are read too."""

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic has a method `json` of old

    class Config(Options):
        """Options of `tuner convert`."""

        panel: ClassVar[str] = "Options"

        file: list[str] = argument("The adapter.", "FILE")
        to: Literal["kohya", "diffusers"] | None = common(None, "The naming.")
        out: str = common("", "The file that is written.", "FILE")
        base: str = common("", "The model that it is for, where its family does not suffice (DoRA).", "BASE")
        json: bool = common(False, "Print everything as JSON.")  # type: ignore[assignment]
        quiet: bool = option(False, "No progress.")


def command(words: list[str]) -> tuple[Command, list[str]]:
    """The command, and the words left for it."""
    return command_of("convert", Config, convert, ABOUT), words


def convert(config: Config) -> None:
    """Write the file in the other naming, and convert it back to see what is lost."""
    if len(config.file) != 1:
        raise RequestError(
            f"tuner convert takes one file, not {len(config.file) or 'none'}: tuner convert FILE --to ..."
        )
    if config.to is None:
        raise RequestError("--to is missing: kohya (ComfyUI, A1111 and their kin) or diffusers.")
    check_out(config.out)
    from ..adapters.convert import convert as converted
    from ..adapters.ground import Ground
    from ..adapters.source import opened

    path, out = Path(config.file[0]), Path(config.out)
    show = Silent() if config.json else showing(config.quiet)
    try:
        with opened([path]) as (source,):
            ground = Ground(config.base, [source])
            if source.naming == config.to and not source.of_peft:
                raise RequestError(f"{path} has {config.to}'s naming already.")
            with show.working(f"Converting {path.name}"):
                found = converted(source, ground, config.to)
                found.artifact.save(out)
            facts = {"file": str(out), "to": config.to, **_facts(found), **_there_and_back(source, ground, found, out)}
            _tell(config, source, found, facts)
    finally:
        show.close()


def _there_and_back(source: Source, ground: Ground, found: Converted, out: Path) -> dict[str, Any]:
    """How many tensors of the file come back from what was written as they were."""
    if found.kinds or source.of_peft:
        return {}
    from ..adapters.convert import compare
    from ..adapters.convert import convert as converted
    from ..adapters.source import opened

    with opened([out]) as (written,):
        alike, total, worst = compare(source, converted(written, ground, source.naming).artifact)
    return {"tensors": total, "identical": alike, "worst": worst}


def _facts(found: Converted) -> dict[str, Any]:
    notes = [f"{count} modules were {kind} and are LoRA now, exactly." for kind, count in found.kinds.items()]
    return {"notes": [*notes, *found.notes], "became_lora": dict(found.kinds)}


def _tell(config: Config, source: Source, found: Converted, facts: dict[str, Any]) -> None:
    if config.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    from .merge_page import lines_of_use, page, percent, size_of

    out = Path(config.out)
    back = ""
    if "tensors" in facts:
        back = f"{facts['identical']:,} of {facts['tensors']:,} tensors come back bit for bit"
        back += f", the others to {percent(facts['worst'])}" if facts["worst"] else ""
    rows = {"modules": f"{len(source.modules):,}", "there and back": back, "size": size_of(out)}
    base = config.base or source.described.metadata.get("tuner.base", "")
    use = lines_of_use(shlex.quote(str(out)), source.described.trigger or "a picture", base)
    names = "kohya's" if config.to == "kohya" else "diffusers'"
    page(out, f"{source.path.name} in {names} naming", rows, facts["notes"], use)
