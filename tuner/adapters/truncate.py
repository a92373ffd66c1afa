"""Low-rank approximations: truncated singular value decompositions, and what they cost.

Of all matrices of a rank the truncated decomposition is the nearest one, and its squared distance is the sum of the
squares of the singular values that are left out (Eckart & Young 1936). A product up @ down of few ranks is decomposed
without being formed: up = Q R and down^T = Q' R', and the singular values of up @ down are those of the small R R'^T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .changes import LowRank, joined


@dataclass(frozen=True)
class Keep:
    """How many singular values are kept: `rank` at most, or as many as have the share `energy` of their squares."""

    rank: int = 0
    energy: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.rank or self.energy)

    def count(self, values: Tensor, noise: float = 0.0) -> int:
        """Of singular values, the greatest first; those at the level of `noise` are never kept, and one always is."""
        there = int((values > noise).sum())
        if self.energy:
            shares = values.double().square().cumsum(0)
            there = min(there, int((shares < self.energy * shares[-1] * (1 - 1e-12)).sum()) + 1)
        return max(1, min(there, self.rank or there))


@dataclass(frozen=True)
class Truncated:
    """What is kept of a matrix.

    Attributes:
        up, down: (out, rank) and (rank, inputs); each has the root of every singular value.
        lost: the sum of the squares of the singular values that are not kept.
        size: that of all of them.
    """

    up: Tensor
    down: Tensor
    lost: float
    size: float

    def change(self, shape: tuple[int, ...]) -> LowRank:
        """As a change of a weight of this shape."""
        return joined(self.up, self.down, shape)


def truncated(up: Tensor, down: Tensor, keep: Keep) -> Truncated:
    """The nearest product of fewer ranks to up @ down, (out, rank) and (rank, inputs)."""
    if up.shape[1] >= min(up.shape[0], down.shape[1]):
        return of_whole(up @ down, keep)
    left, small = torch.linalg.qr(up)
    right, other = torch.linalg.qr(down.T)
    u, values, v = torch.linalg.svd(small @ other.T)
    return _kept(left @ u, values, v @ right.T, keep, _rounding(values))


def of_whole(matrix: Tensor, keep: Keep, noise: float = 0.0) -> Truncated:
    """The nearest matrix of fewer ranks. `noise`: singular values so small are rounding, and are left out."""
    u, values, v = torch.linalg.svd(matrix.float(), full_matrices=False)
    return _kept(u, values, v, keep, max(noise, _rounding(values)))


def _rounding(values: Tensor) -> float:
    """How large singular values are that are nothing but the rounding of the greatest."""
    return torch.finfo(torch.float32).eps * len(values) ** 0.5 * float(values[0])


def _kept(u: Tensor, values: Tensor, v: Tensor, keep: Keep, noise: float) -> Truncated:
    rank = keep.count(values, noise)
    squares, roots = values.double().square(), values[:rank].sqrt()
    up, down = u[:, :rank] * roots, roots[:, None] * v[:rank]
    return Truncated(up, down, float(squares[rank:].sum()), float(squares.sum()))
