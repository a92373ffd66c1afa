"""An adapter at another rank: more by zeros, which is exact, fewer by truncated singular value decompositions.

Alpha goes with the rank, so that the scale stays. Other kinds of changes than LoRA's become LoRA's. Of a DoRA the
change before the magnitudes is resized, and the magnitudes stay: rows keep their lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from .changes import Change, LowRank
from .combine import common_numerator, factors
from .dora import Decomposed
from .flat import inner
from .ground import Ground
from .merge import ALPHA, Figure, Merged
from .places import places
from .rounding import Rounding
from .source import Source
from .truncate import Keep, truncated


def resize(source: Source, ground: Ground, keep: Keep, dtype: torch.dtype, tick: Callable[[int, int], None]) -> Merged:
    """A file's adapter at another rank, in the file's own naming.

    Raises:
        RequestError: it needs a base that is not known, or holds what is not finite.
    """
    found, writer, alpha = places([source], ground), Rounding(dtype), _alpha(source, keep)
    changes: dict[str, Change] = {}
    figures: dict[str, Figure] = {}
    for number, place in enumerate(found):
        module, target = place.parts[0][1], place.target
        change = source.change(module, target.shape, partial(ground.weight, source, module))
        plain, figure = _resized(inner(change), target.shape, keep)
        made = writer.rounded(plain.rescaled(alpha, rslora=False), target.name)
        if isinstance(change, Decomposed):
            made = Decomposed.on(ground.weight(source, module), made, change.magnitude)
        changes[target.name] = made
        figures[target.kohya if source.naming == "kohya" else target.diffusers] = figure
        tick(number + 1, len(found))
    return Merged(source.naming, changes, {place.target.name: place.target for place in found}, figures, writer.error)


def _alpha(source: Source, keep: Keep) -> float:
    """The one alpha of the result: that of most modules, gone with the rank."""
    outlines = [outline for module in source.modules if (outline := source.outline(module)) is not None]
    told = [outline.scale * keep.rank if keep.rank else outline.numerator(rslora=False) for outline in outlines]
    return common_numerator(told) if told else float(keep.rank or ALPHA)


def _resized(change: Change, shape: tuple[int, ...], keep: Keep) -> tuple[LowRank, Figure]:
    if isinstance(change, LowRank) and keep.rank and change.low_rank(shape).rank <= keep.rank:
        return _padded(change.low_rank(shape), keep.rank), Figure(keep.rank)
    kept = truncated(*factors([change], shape), keep)
    made, rank = kept.change(shape), keep.rank or kept.up.shape[1]
    return _padded(made, rank), Figure(rank, kept.lost, kept.size)


def _padded(change: LowRank, rank: int) -> LowRank:
    """The same with zeros for the ranks that it lacks."""
    more = rank - change.rank
    down = torch.cat([change.down, change.down.new_zeros(more, *change.down.shape[1:])])
    up = torch.cat([change.up, change.up.new_zeros(len(change.up), more, *change.up.shape[2:])], 1)
    return LowRank(down, up, change.scale * rank)
