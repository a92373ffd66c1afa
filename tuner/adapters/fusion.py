"""Gradient fusion: each adapter keeps what it does to its own inputs (Gu et al. 2023, Mix-of-Show, arXiv:2305.18292).

For every layer, W = argmin sum_i |(W0 + w_i dW_i) X_i - W X_i|^2, X_i being what the layer is given when the base works
with adapter i on that adapter's prompts (eq. 4). With G_i = X_i X_i^T and G their sum, least squares give
sum_i w_i dW_i G_i G^-1 in the directions that any X_i has. In the others the activations say nothing: there the plain
weighted sum stands, which a ridge towards it gives. Together

    dW = sum_i w_i dW_i (G_i + l I) (G + l I)^-1,

so that the ranks of the result are those of the adapters one after the other, their up matrices are as they were, and
one adapter alone is itself. The paper has no such term: it starts an iterative solver at W0 and stops it.

Prompts that are to stay as they are count as one adapter more, whose change is nothing: their G_0 is added to G.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from .activations import added, key_of, sums
from .changes import LowRank
from .ground import Ground
from .merge import weighed_part
from .places import Place, places
from .weighted import Weighted

RIDGE = 1e-6  # of the mean of G's diagonal


class Fusion:
    """What the layers are given by each adapter, and what follows for their changes.

    Args:
        adapters: those that are merged.
        ground: the base, whose weights are known.
        prompts: of each adapter.
        seed: of the noise that pictures begin from.
        retain: prompts on which the base is to answer as it does alone.
        tick: told how many prompts are done, of how many.
    """

    def __init__(
        self, adapters: Sequence[Weighted], ground: Ground, prompts: Sequence[Sequence[str]], seed: int,
        retain: Sequence[str] = (), tick: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:  # fmt: skip
        found = places([adapter.source for adapter in adapters], ground, named=True)
        targets = {place.target.name: place.target for place in found}
        self._count = len(adapters)
        self._sums: dict[str, Tensor] = {}
        self._shares: dict[tuple[int, str], Tensor] = {}  # down_i G_i
        self._factor = cache(self._factored)
        self._apart: dict[str, float] = dict.fromkeys(("all", "fusion", "sum", "mean"), 0.0)
        every = [*prompts, *([retain] if retain else [])]
        done, total = iter(range(1, 1 + sum(map(len, every)))), sum(map(len, every))
        for number, words in enumerate(every):
            own = {place.target.name: (place, module) for place in found for n, module in place.parts if n == number}
            changes = {name: weighed_part(adapters, ground, *at, number) for name, at in own.items()}
            with added(ground.model, changes, targets):
                mine = sums(ground.model, targets.values(), words, seed, lambda: tick(next(done), total))
            for name, change in changes.items():
                rows = change.low_rank(targets[name].shape).down.flatten(1).double()
                self._shares[number, name] = rows @ mine[key_of(targets[name])]
            for key, value in mine.items():
                self._sums[key] = self._sums[key] + value if key in self._sums else value

    def _factored(self, key: str) -> tuple[Tensor, float]:
        """The Cholesky factor of G + l I, and l."""
        whole = self._sums[key]
        ridge = RIDGE * float(whole.diagonal().mean())
        return torch.linalg.cholesky(whole + ridge * torch.eye(len(whole), dtype=whole.dtype)), ridge

    def __call__(self, place: Place, parts: Sequence[LowRank]) -> list[LowRank]:
        """A module's changes, weighed, such that their sum is the fusion (a `Filter`)."""
        whole = self._sums[key_of(place.target)]
        if not whole.any():
            return list(parts)
        factor, ridge = self._factor(key_of(place.target))
        downs = [part.down.flatten(1).double() for part in parts]
        shares = [self._shares[number, place.target.name] for number, _ in place.parts]
        wanted = torch.cat([share + ridge * down for share, down in zip(shares, downs, strict=True)])
        solved = torch.cholesky_solve(wanted.T, factor).T
        self._note(parts, downs, shares, solved, whole)
        rows = solved.float().split([part.rank for part in parts])
        return [replace(part, down=own.reshape(part.down.shape)) for part, own in zip(parts, rows, strict=True)]

    def _note(
        self, parts: Sequence[LowRank], downs: Sequence[Tensor], shares: Sequence[Tensor], solved: Tensor, whole: Tensor
    ) -> None:
        """Take account of |sum_i (w_i dW_i - dW) X_i|^2 for the fusion, the plain sum and the mean; all factored."""
        ups = [part.scale * part.up.flatten(1).double() for part in parts]
        up, plain, share = torch.cat(ups, 1), torch.cat(list(downs)), torch.cat(list(shares))
        inner = up.T @ up
        pairs = zip(ups, downs, shares, strict=True)
        own = sum(float(((u.T @ u) * (s @ d.T)).sum()) for u, d, s in pairs)
        self._apart["all"] += own
        for name, rows in (("fusion", solved), ("sum", plain), ("mean", plain / self._count)):
            cross, square = (inner * (rows @ share.T)).sum(), (inner * (rows @ whole @ rows.T)).sum()
            self._apart[name] += own - 2 * float(cross) + float(square)

    @property
    def apart(self) -> dict[str, float]:
        """How far each adapter's effect on its own inputs is missed, and inputs that are to stay are changed, relative
        to these effects: by the fusion, by the plain sum of the weighed adapters, and by their mean. Known when all
        modules are done."""
        whole = self._apart["all"]
        return {n: (max(0.0, v) / whole) ** 0.5 if whole else 0.0 for n, v in self._apart.items() if n != "all"}
