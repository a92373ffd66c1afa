"""Sums of changes, exactly: ranks are concatenated, never averaged.

sum_i w_i scale_i up_i down_i = scale [.. f_i up_i ..] [.. down_i ..], with f_i = w_i scale_i / scale. Merging up and
down matrices by themselves would give cross terms up_i down_j. Other kinds become low-rank changes, which has an exact
form (see `changes` and `lycoris`); a sum of so many ranks that the whole difference is smaller becomes that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .changes import Change, Full, LowRank, exact
from .dora import Decomposed


def weighed(change: Change, weight: float, weight_in_base: Tensor | None) -> Change:
    """A change at a weight, as programs take it; a DoRA becomes its whole difference, for which the base is needed."""
    if isinstance(change, Decomposed):
        assert weight_in_base is not None, "a DoRA cannot be weighed without the base"
        return Full(change.delta(weight_in_base) * weight)
    return change.times(weight)


def total(changes: Sequence[Change], shape: tuple[int, ...], whole: bool) -> Change:
    """The sum, exactly.

    Args:
        changes: of one weight.
        shape: that weight's.
        whole: whether the file may hold whole differences; diffusers loads none.
    """
    if len(changes) == 1 and (whole or isinstance(changes[0], LowRank)):
        return changes[0]
    plain = all(isinstance(change, LowRank) for change in changes)
    flat = [change.low_rank(shape) for change in changes]
    rank, rows, columns = sum(change.rank for change in flat), shape[0], math.prod(shape[1:])
    if plain or not whole:
        return stacked(flat, shape) if rank <= min(rows, columns) else exact(_sum(changes), shape)
    return stacked(flat, shape) if rank * (rows + columns) < rows * columns else Full(_sum(changes).reshape(shape))


def _sum(changes: Sequence[Change]) -> Tensor:
    """The whole difference, (out, inputs), in fp32."""
    found = changes[0].update().clone()
    for change in changes[1:]:
        found += change.update()
    return found


def stacked(changes: Sequence[LowRank], shape: tuple[int, ...]) -> LowRank:
    """Low-rank changes as one of all their ranks, of the first one's scale: its matrices stay as they are."""
    plain = [change.low_rank(shape) for change in changes]  # without cores
    rank, scale = sum(change.rank for change in plain), abs(plain[0].scale) or 1.0
    ratios = torch.cat([torch.full((change.rank,), change.scale / scale) for change in plain])
    up = _beside([change.up.flatten(1) for change in plain], 1).float().mul_(ratios)
    down = _beside([change.down.flatten(1) for change in plain], 0)
    return LowRank(down.view(rank, *shape[1:]), up.view(-1, rank, *(1,) * len(shape[2:])), scale * rank)


def _beside(matrices: Sequence[Tensor], axis: int) -> Tensor:
    """Matrices as a new one, in their precision; in fp32 where they differ in it, or nothing can be done in it."""
    known = {matrix.dtype for matrix in matrices}
    alike = len(known) == 1 and known <= {torch.float32, torch.float16, torch.bfloat16}
    return torch.cat(list(matrices) if alike else [matrix.float() for matrix in matrices], axis)


def factors(changes: Sequence[Change], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The sum as up (out, rank) and down (rank, inputs), scale included, in fp32."""
    found = stacked([change.low_rank(shape) for change in changes], shape)
    return found.scale * found.up.flatten(1), found.down.flatten(1).float()


def common_numerator(wanted: Iterable[float]) -> float:
    """The alpha under which most of a file's modules keep their matrices: diffusers has one for a whole network."""
    known = [abs(alpha) for alpha in wanted if alpha and math.isfinite(alpha)]
    alike = Counter(f"{alpha:.7g}" for alpha in known)
    return next((alpha for alpha in known if f"{alpha:.7g}" == alike.most_common(1)[0][0]), 1.0)
