"""Merging adapters: weighted sums of what they change, module by module, without a base wherever none is needed.

Files are opened, not loaded, and a module's tensors are let go of before the next one's are read: memory holds the
result and a few tensors. Only DoRA, whose difference depends on the weight, and files spelled apart need a base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..errors import RequestError
from ..randomness import generator
from .changes import Change, Full, LowRank, exact
from .combine import common_numerator, factors, stacked, total, weighed
from .dora import Decomposed
from .flat import under
from .ground import Ground
from .interference import dare, ties
from .naming import Target
from .places import Place, naming_for, places
from .rounding import Rounding
from .truncate import Keep, Truncated, of_whole, truncated
from .weighted import Weighted, check_blocks

ALPHA = 16.0  # of a file whose ranks differ from module to module: any number would do
Filter = Callable[[Place, Sequence[LowRank]], Sequence[LowRank]]


@dataclass(frozen=True)
class Way:
    """How adapters are merged.

    Attributes:
        method: `exact`, `svd`, `ties`, `dare` or `fusion`.
        keep: the ranks of the result; empty for all of them.
        density: of TIES and DARE.
        seed: of what DARE drops.
        dtype: the result's precision; None for that of the files.
    """

    method: str = "exact"
    keep: Keep = field(default_factory=Keep)
    density: float = 1.0
    seed: int = 0
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Figure:
    """What became of a module: its rank, what a truncation lost of it, and its size, both as squared norms."""

    rank: int
    lost: float = 0.0
    size: float = 0.0

    @property
    def error(self) -> float:
        """The relative Frobenius error."""
        return (self.lost / self.size) ** 0.5 if self.size else 0.0


@dataclass(frozen=True)
class Merged:
    """What a merge gives.

    Attributes:
        naming: how its file is to be named.
        changes, targets: by module.
        figures: by the module's name in the file.
        rounding: the relative error of its numbers that a half precision makes.
    """

    naming: str
    changes: Mapping[str, Change]
    targets: Mapping[str, Target]
    figures: Mapping[str, Figure]
    rounding: float = 0.0


def merge(
    adapters: Sequence[Weighted], ground: Ground, way: Way, naming: str = "",
    tick: Callable[[int, int], None] = lambda done, total: None, apart: Filter | None = None, named: bool = False,
) -> Merged:  # fmt: skip
    """Merge adapters into one.

    Args:
        adapters: one or more.
        ground: the base, for what needs it.
        way: how.
        naming: the result's; by default that of the files.
        tick: told how many modules are done, of how many.
        apart: what is done to a module's changes, one for each of its files, before they are added (see `fusion`).
        named: whether the result must name the base's own modules, and not those of the files.

    Raises:
        RequestError: the files do not go together, need a base that is not known, or hold what is not finite.
    """
    sources = [adapter.source for adapter in adapters]
    named = named or apart is not None or any(adapter.blocks for adapter in adapters)
    found = places(sources, ground, named)
    check_blocks(adapters, found)
    naming = naming or naming_for(sources)
    numerator = _numerator(adapters, found, way)
    writer = Rounding(way.dtype or torch.float32)
    changes: dict[str, Change] = {}
    figures: dict[str, Figure] = {}
    for number, place in enumerate(found):
        parts: Sequence[Change]
        parts = [weighed_part(adapters, ground, place, module, number) for number, module in place.parts]
        if apart is not None:
            parts = apart(place, [part.low_rank(place.target.shape) for part in parts])
        numbers = [number for number, _ in place.parts]
        kept = {n: part for n, part in zip(numbers, parts, strict=True) if adapters[n].at(place.target)}
        if kept:
            change, figure = _joined(kept, place, way, naming == "kohya")
            changes[place.target.name] = writer.rounded(under(change, numerator, rslora=False), place.target.name)
            figures[place.target.kohya if naming == "kohya" else place.target.diffusers] = figure
        tick(number + 1, len(found))
    if not changes:
        raise RequestError("Nothing is left to merge: all weights are 0; give some adapter a weight.")
    targets = {place.target.name: place.target for place in found if place.target.name in changes}
    return Merged(naming, changes, targets, figures, writer.error)


def weighed_part(adapters: Sequence[Weighted], ground: Ground, place: Place, module: str, number: int) -> Change:
    """What one of the files does to a module, at its weight there."""
    adapter, shape = adapters[number], place.target.shape
    change = adapter.source.change(module, shape, partial(ground.weight, adapter.source, module))
    base = ground.weight(adapter.source, module) if isinstance(change, Decomposed) else None
    change = _shaped(change, shape) if isinstance(change, LowRank) else change
    return weighed(change, adapter.at(place.target), base)


def _shaped(change: LowRank, shape: tuple[int, ...]) -> Change:
    """For a weight that another file has in another shape, a convolution of 1 x 1 or a linear layer."""
    if change.mid is not None or change.down.shape[1:] == shape[1:]:
        return change
    return stacked([change], shape)


def _numerator(adapters: Sequence[Weighted], found: Sequence[Place], way: Way) -> float:
    """The one alpha of the result (see `common_numerator`)."""
    if way.keep:
        return float(way.keep.rank or ALPHA)
    told = []
    for place in found:
        weights = [adapters[number].at(place.target) for number, _ in place.parts]
        outlines = [adapters[number].source.outline(module) for number, module in place.parts]
        parts = [o.times(w) for o, w in zip(outlines, weights, strict=True) if o is not None and w]
        if parts and all(outlines):
            told.append(parts[0].scale * sum(part.low_rank(place.target.shape).rank for part in parts))
    return common_numerator(told)


def _joined(kept: Mapping[int, Change], place: Place, way: Way, whole: bool) -> tuple[Change, Figure]:
    """A module's changes, by the numbers of their files, as one."""
    shape, parts = place.target.shape, list(kept.values())
    if way.method in ("ties", "dare"):
        matrix = _undisturbed(kept, place, way)
        if way.keep:
            return _figured(of_whole(matrix, way.keep), shape)
        return (Full(matrix.reshape(shape)), Figure(0)) if whole else (exact(matrix, shape), Figure(min(matrix.shape)))
    if way.keep:
        return _figured(truncated(*factors(parts, shape), way.keep), shape)
    change = total(parts, shape, whole)
    return change, Figure(change.rank)


def _figured(kept: Truncated, shape: tuple[int, ...]) -> tuple[Change, Figure]:
    return kept.change(shape), Figure(kept.up.shape[1], kept.lost, kept.size)


def _undisturbed(kept: Mapping[int, Change], place: Place, way: Way) -> Tensor:
    differences = [change.update() for change in kept.values()]
    if way.method == "ties":
        return ties(differences, way.density)
    return dare(differences, way.density, [generator(way.seed, "dare", place.target.name, number) for number in kept])
