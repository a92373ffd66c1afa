"""Merge adapters into one, or bake them into a model: exactly, or by SVD, TIES, DARE or gradient fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..adapters.container import Container, read_header
from ..adapters.describe import is_word
from ..adapters.merge_request import Config as Config
from ..adapters.merge_request import blocks, check, check_out, prompts
from ..errors import RequestError
from .options import Command
from .options import command as command_of
from .show import Show, Silent, showing

if TYPE_CHECKING:
    from ..adapters.fusion import Fusion
    from ..adapters.ground import Ground
    from ..adapters.merge import Merged, Way
    from ..adapters.source import Source
    from ..adapters.weighted import Weighted

ABOUT = f"""{__doc__}

exact adds the weighted updates with nothing lost: ranks are concatenated, and one adapter at weight 1 is itself. svd
keeps the nearest update of --rank or --energy. ties and dare thin the updates out before they add them. fusion fits
each adapter's own inputs, which it finds by running the base. LoRA, DoRA, LoCon, LoHa, LoKr and whole differences mix.

Of tokens it makes a folder of them, or of several one word that has all their vectors."""

DENSITY = {"ties": 0.2, "dare": 0.5}


def command(words: list[str]) -> tuple[Command, list[str]]:
    """The command, and the words left for it."""
    return command_of("merge", Config, merge, ABOUT), words


def merge(config: Config) -> None:
    """Merge what was asked for, and show what came of it."""
    check(config)
    from ..adapters.apply import parse_adapter

    given = [parse_adapter(text, "") for text in config.file]
    held = {path: read_header(path) for path, _ in given}
    tokens = [is_word(held[path]) for path, _ in given]
    if any(tokens):
        from .merge_tokens import merge_tokens

        merge_tokens(config, given, all(tokens))
        return
    if config.rename:
        raise RequestError("--rename is for tokens, which have names; these are other adapters.")
    check_out(config.out, folder=bool(config.into))
    show = Silent() if config.json else showing(config.quiet)
    try:
        _merge(config, given, held, show)
    finally:
        show.close()


def _merge(
    config: Config, given: Sequence[tuple[Path, float]], held: Mapping[Path, Container], show: Show
) -> None:  # fmt: skip
    from ..adapters.ground import Ground
    from ..adapters.provenance import check as check_together
    from ..adapters.source import opened
    from ..adapters.weighted import Weighted
    from ..randomness import use_threads

    use_threads()
    paths = [path for path, _ in given]
    with opened(paths, held) as sources:
        notes = check_together(sources)
        own, shared = blocks(config, paths)
        adapters = [Weighted(s, weight, b, shared) for s, (_, weight), b in zip(sources, given, own, strict=True)]
        ground = Ground(config.into or config.base, sources, "--into" if config.into else "--base")
        way = _way(config, sources)
        merged: Merged | None
        if config.into:
            merged, more = _bake(config, adapters, ground, way, show)
            notes = notes + more
        else:
            merged, notes = _write(config, adapters, ground, way, show, notes)
        from .merge_page import tell

        tell(config, adapters, merged, way, notes)


def _way(config: Config, sources: Sequence[Source]) -> Way:
    from ..adapters.merge import Way
    from ..adapters.source import widest
    from ..adapters.truncate import Keep
    from ..sampling.precision import DTYPES

    auto = None if config.into else widest(source.precision for source in sources)
    dtype = DTYPES.get(config.save_precision, auto)
    density = config.density or DENSITY.get(config.method, 1.0)
    return Way(config.method, Keep(config.rank or 0, config.energy or 0.0), density, config.seed, dtype)


def _fusion(config: Config, adapters: Sequence[Weighted], ground: Ground, show: Show) -> Fusion | None:
    """What fusion has learned of the base's layers; None for the other methods."""
    if config.method != "fusion":
        return None
    import torch

    from ..adapters.fusion import Fusion

    sources = [adapter.source for adapter in adapters]
    wanted = prompts(config, [source.path for source in sources], [source.metadata for source in sources])
    if not ground.known:
        raise RequestError("--method fusion runs the base with each adapter; name it by --base.")
    with show.working(f"Loading the base {config.into or config.base or 'that they were made on'}"):
        ground.model.to("cuda" if torch.cuda.is_available() else "cpu")
    tick = lambda done, total: show.count(done, total, "prompt")  # noqa: E731
    return Fusion(adapters, ground, wanted, config.seed, config.retain, tick)


def _write(
    config: Config, adapters: Sequence[Weighted], ground: Ground, way: Way, show: Show, notes: list[str]
) -> tuple[Merged | None, list[str]]:
    """Write the merged file. Returns the merge, None of one adapter that stays itself; and what there is to know."""
    from ..adapters.merge import merge as merged_of
    from ..adapters.merge_file import alone, of, told

    out = Path(config.out)
    if len(adapters) == 1 and adapters[0].plain and config.method == "exact" and config.save_precision == "auto":
        alone(adapters[0].source, told(adapters, way)).save(out)
        return None, notes
    fusion = _fusion(config, adapters, ground, show)
    merged = merged_of(adapters, ground, way, tick=lambda n, total: show.count(n, total, "module"), apart=fusion)
    of(merged, adapters, ground, way, out).save(out)
    notes = notes + _said_of(fusion, config)
    whole = sum(change.kind == "full" for change in merged.changes.values())
    if whole and merged.naming == "kohya":
        notes = [*notes, f"{whole} modules are whole differences: `tuner convert` makes a LoRA of them for diffusers."]
    return merged, notes


def _said_of(fusion: Fusion | None, config: Config) -> list[str]:
    if fusion is None:
        return []
    apart, also = fusion.apart, ", and none on those that stay," if config.retain else ""
    return [
        f"On its own prompts each adapter's effect{also} is missed by {apart['fusion']:.1%}; the plain sum would miss "
        f"it by {apart['sum']:.1%}, the mean by {apart['mean']:.1%}."
    ]


def _bake(
    config: Config, adapters: Sequence[Weighted], ground: Ground, way: Way, show: Show
) -> tuple[Merged, list[str]]:
    """Write the model that has the adapters in its weights."""
    from dataclasses import replace

    import torch

    from ..adapters.bake import bake, write_file, write_folder
    from ..adapters.merge import merge as merged_of
    from ..adapters.merge_file import told
    from ..adapters.provenance import drawn_with, origin

    out, source, sources = Path(config.out), Path(config.into), [adapter.source for adapter in adapters]
    if out.suffix == ".safetensors" and not source.is_file():
        raise RequestError(
            f"--out {out}: a single file is made from a single file; --into {source} is none, so name a folder."
        )
    with show.working(f"Loading the base {config.into}"):
        model = ground.model
    fusion = _fusion(config, adapters, ground, show)
    full = replace(way, dtype=torch.float32)
    tick = lambda done, total: show.count(done, total, "module")  # noqa: E731
    merged = merged_of(adapters, ground, full, "kohya", tick, fusion, named=True)
    show.close()
    with show.working(f"Writing {out}"):
        if out.suffix == ".safetensors":
            said = {f"tuner.{key}": value for key, value in origin(sources, told(adapters, way)).items()}
            write_file(source, model.family.name, merged.changes, merged.targets, out, way.dtype, said)
        else:
            bake(model, merged.changes, merged.targets)
            write_folder(model, out, way.dtype or torch.float32, drawn_with(sources, config.into))
    return merged, _said_of(fusion, config)
