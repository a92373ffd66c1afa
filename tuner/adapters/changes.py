"""What adapters do to one layer's weight W: each kind of change, what files hold of it, and what it amounts to.

- `LowRank`: scale * up @ down (LoRA, Hu et al. 2021, arXiv:2106.09685; for convolutions with a core, LoCon).
- `Full`: the whole difference.
- `Hadamard` and `Kronecker` (LoHa and LoKr, in `lycoris`): products of other kinds.
- `Decomposed`: any of them, with rows of a length of their own (DoRA, in `dora`).

Names of tensors are those of kohya's and LyCORIS' files. scale = alpha / rank, the rank being the inner size of the
last pair of factors (ComfyUI, comfy/weight_adapter; LyCORIS, lycoris/modules). diffusers loads low-rank changes alone:
`low_rank` has every kind as one, exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor


class Change(ABC):
    """What an adapter does to one layer."""

    kind: str

    @property
    @abstractmethod
    def rank(self) -> int:
        """The inner size that its maker chose; 0 where there is none."""

    @abstractmethod
    def update(self) -> Tensor:
        """What is added to the weight, in fp32: (out, in) or (out, in * height * width)."""

    @abstractmethod
    def low_rank(self, shape: tuple[int, ...]) -> LowRank:
        """The same as a plain low-rank change of a weight of this shape."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What kohya's and LyCORIS' files hold of it, by the ending of the name."""

    @abstractmethod
    def to(self, dtype: torch.dtype) -> Change:
        """The same in another precision."""

    @abstractmethod
    def times(self, weight: float) -> Change:
        """What programs make of it at a weight: all that the layer's weight changes by, multiplied.

        Raises:
            TypeError: no change of its kind does that (DoRA).
        """

    def delta(self, weight: Tensor) -> Tensor:
        """What the layer's weight changes by, in fp32 and in its shape."""
        return self.update().reshape(weight.shape)

    @property
    def empty(self) -> bool:
        """Whether it changes nothing."""
        return not self.update().any()


@dataclass(frozen=True)
class LowRank(Change):
    """scale * up @ down, or with a core scale * up @ mid @ down.

    Attributes:
        down: (rank, in) or (rank, in, height, width); with a core (rank, in, 1, 1).
        up: (out, rank) or (out, rank, 1, 1).
        alpha: the numerator of the scale.
        rslora: whether the denominator is the rank's square root (Kalajdzievski 2023, arXiv:2312.03732).
        mid: the core, (rank, rank, height, width), or None.
    """

    down: Tensor
    up: Tensor
    alpha: float
    rslora: bool = False
    mid: Tensor | None = None
    kind = "lora"

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def numerator(self, rslora: bool) -> float:
        """The alpha that gives this scale by either rule."""
        root = math.sqrt(self.rank)
        if rslora == self.rslora:
            return self.alpha
        return self.alpha / root if rslora else self.alpha * root

    @property
    def empty(self) -> bool:
        return self.alpha == 0 or not self.up.any() or not self.down.any()

    def update(self) -> Tensor:
        plain = self._without_core()
        return self.scale * (plain.up.flatten(1).float() @ plain.down.flatten(1).float())

    def low_rank(self, shape: tuple[int, ...]) -> LowRank:
        return self._without_core()

    def _without_core(self) -> LowRank:
        if self.mid is None:
            return self
        down = torch.einsum("nmkl,mj->njkl", self.mid.float(), self.down.flatten(1).float())
        return LowRank(down, self.up.float(), self.scale * down.shape[0])

    def rescaled(self, alpha: float, rslora: bool) -> LowRank:
        """The same change under another alpha: where the scale would differ, the difference moves into `up`."""
        other = replace(self, alpha=alpha, rslora=rslora)
        if math.isclose(other.scale, self.scale, rel_tol=1e-9):
            return other
        return replace(other, up=self.up.float() * (self.scale / other.scale if other.scale else 0.0))

    def tensors(self) -> dict[str, Tensor]:
        """alpha / rank is the true scale, which kohya's files know alone: rsLoRA's moves into alpha."""
        core = {} if self.mid is None else {"lora_mid.weight": self.mid}
        alpha = torch.tensor(self.numerator(rslora=False), dtype=torch.float32)
        return {"lora_down.weight": self.down, "lora_up.weight": self.up, **core, "alpha": alpha}

    def to(self, dtype: torch.dtype) -> LowRank:
        mid = None if self.mid is None else self.mid.to(dtype)
        return replace(self, down=self.down.to(dtype), up=self.up.to(dtype), mid=mid)

    def times(self, weight: float) -> LowRank:
        return replace(self, alpha=self.alpha * weight)


def exact(update: Tensor, shape: tuple[int, ...]) -> LowRank:
    """A whole difference (out, inputs) as a low-rank change: the shorter side is the rank, one factor the identity."""
    out, inputs = update.shape
    return joined(torch.eye(out), update, shape) if out <= inputs else joined(update, torch.eye(inputs), shape)


def joined(up: Tensor, down: Tensor, shape: tuple[int, ...]) -> LowRank:
    """up (out, rank) and down (rank, inputs) as a change of scale 1."""
    rank = up.shape[1]
    return LowRank(down.reshape(rank, *shape[1:]), up.reshape(-1, rank, *(1,) * len(shape[2:])), float(rank))


@dataclass(frozen=True)
class Full(Change):
    """The whole difference, in the weight's shape."""

    diff: Tensor
    kind = "full"

    @property
    def rank(self) -> int:
        return 0

    def update(self) -> Tensor:
        return self.diff.float().flatten(1)

    def low_rank(self, shape: tuple[int, ...]) -> LowRank:
        return exact(self.update(), shape)

    def tensors(self) -> dict[str, Tensor]:
        return {"diff": self.diff}

    def to(self, dtype: torch.dtype) -> Full:
        return Full(self.diff.to(dtype))

    def times(self, weight: float) -> Full:
        return self if weight == 1 else Full(self.diff.float() * weight)
