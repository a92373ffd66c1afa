"""LyCORIS' changes (Yeh et al. 2023, arXiv:2309.14859): products of other kinds than LoRA's.

- LoHa: scale * (w1_a @ w1_b) * (w2_a @ w2_b), number by number (Hyeon-Woo et al. 2021, FedPara, arXiv:2108.06098).
- LoKr: scale * kron(w1, w2).

Of a convolution each product may go through a core (Tucker). Names and scales as in `changes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .changes import Change, LowRank, exact, joined


@dataclass(frozen=True)
class Hadamard(Change):
    """scale * (w1_a @ w1_b) * (w2_a @ w2_b), product by product; with cores each pair is (rank, out), (rank, in).

    Attributes:
        held: `hada_w1_a` (out, rank), `hada_w1_b` (rank, inputs), `hada_w2_a`, `hada_w2_b`; where it has cores,
            `hada_t1` and `hada_t2`, (rank, rank, height, width).
        alpha: the numerator of the scale; None is a scale of 1.
    """

    held: Mapping[str, Tensor]
    alpha: float | None
    kind = "loha"

    @property
    def rank(self) -> int:
        return self.held["hada_w1_b"].shape[0]

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Both products as factors (out, n), (n, inputs), in fp32."""
        found = []
        for n in "12":
            a, b = self.held[f"hada_w{n}_a"].float(), self.held[f"hada_w{n}_b"].float()
            core = self.held.get(f"hada_t{n}")
            found.append(_with_core(a, b, core) if core is not None else (a.flatten(1), b.flatten(1)))
        return found

    def update(self) -> Tensor:
        (a, b), (c, d) = self._pairs()
        return self.scale * ((a @ b) * (c @ d))

    def low_rank(self, shape: tuple[int, ...]) -> LowRank:
        """Products of every pair of columns, and of rows: of rank n1 n2 (Khatri-Rao)."""
        (a, b), (c, d) = self._pairs()
        if a.shape[1] * c.shape[1] >= min(a.shape[0], b.shape[1]):
            return exact(self.update(), shape)
        up = (a[:, :, None] * c[:, None, :]).flatten(1)
        down = (b[:, None, :] * d[None, :, :]).flatten(0, 1)
        return joined(up, self.scale * down, shape)

    def tensors(self) -> dict[str, Tensor]:
        return {**self.held, "alpha": torch.tensor(self.scale * self.rank, dtype=torch.float32)}

    def to(self, dtype: torch.dtype) -> Hadamard:
        return replace(self, held={name: tensor.to(dtype) for name, tensor in self.held.items()})

    def times(self, weight: float) -> Hadamard:
        return replace(self, alpha=self.scale * self.rank * weight)


@dataclass(frozen=True)
class Kronecker(Change):
    """scale * kron(w1, w2), either factor whole or as a product; a whole w2 may be (c, d, height, width).

    Attributes:
        held: `lokr_w1` (a, b), or `lokr_w1_a` (a, rank) and `lokr_w1_b` (rank, b); `lokr_w2` (c, d), or `lokr_w2_a`
            (c, rank) and `lokr_w2_b` (rank, d), with the core `lokr_t2` (rank, c) and (rank, d). out = a c, in = b d.
        alpha: the numerator of the scale; None is a scale of 1. With both factors whole there is no rank, and the scale
            is 1 whatever alpha is.
    """

    held: Mapping[str, Tensor]
    alpha: float | None
    kind = "lokr"

    @property
    def rank(self) -> int:
        last = self.held.get("lokr_w2_b", self.held.get("lokr_w1_b"))
        return 0 if last is None else last.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank if self.alpha is not None and self.rank else 1.0

    def _factor(self, n: str) -> tuple[Tensor, Tensor]:
        """w1 or w2 as factors (rows, n), (n, columns), in fp32; a whole one by the identity on its shorter side."""
        whole = self.held.get(f"lokr_w{n}")
        if whole is not None:
            flat = whole.float().flatten(1)
            rows, columns = flat.shape
            return (torch.eye(rows), flat) if rows <= columns else (flat, torch.eye(columns))
        a, b = self.held[f"lokr_w{n}_a"].float(), self.held[f"lokr_w{n}_b"].float()
        core = self.held.get("lokr_t2") if n == "2" else None
        return _with_core(a, b, core) if core is not None else (a, b.flatten(1))

    def update(self) -> Tensor:
        (a, b), (c, d) = self._factor("1"), self._factor("2")
        return self.scale * _kron(a @ b, c @ d)

    def low_rank(self, shape: tuple[int, ...]) -> LowRank:
        """kron(a b, c d) = kron(a, c) kron(b, d)."""
        (a, b), (c, d) = self._factor("1"), self._factor("2")
        if a.shape[1] * c.shape[1] >= min(a.shape[0] * c.shape[0], b.shape[1] * d.shape[1]):
            return exact(self.update(), shape)
        return joined(_kron(a, c), self.scale * _kron(b, d), shape)

    def tensors(self) -> dict[str, Tensor]:
        """alpha is always there: with both factors whole programs pass over it."""
        alpha = self.scale * self.rank if self.rank else 1.0
        return {**self.held, "alpha": torch.tensor(alpha, dtype=torch.float32)}

    def to(self, dtype: torch.dtype) -> Kronecker:
        return replace(self, held={name: tensor.to(dtype) for name, tensor in self.held.items()})

    def times(self, weight: float) -> Kronecker:
        """Two whole factors have no alpha that counts: the weight moves into the first one."""
        if self.rank:
            return replace(self, alpha=self.scale * self.rank * weight)
        first = self.held["lokr_w1"]
        return self if weight == 1 else replace(self, held={**self.held, "lokr_w1": first.float() * weight})


def _kron(one: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product of two matrices; torch's own stops at some transposed ones."""
    return torch.einsum("ab,cd->acbd", one, other).reshape(one.shape[0] * other.shape[0], -1)


def _with_core(a: Tensor, b: Tensor, core: Tensor) -> tuple[Tensor, Tensor]:
    """A convolution's product through a core (Tucker): (n, out), (m, in), (n, m, height, width) -> two factors."""
    return a.T, torch.einsum("nmkl,mj->njkl", core.float(), b).flatten(1)
