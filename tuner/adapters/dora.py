"""DoRA (Liu et al. 2024, arXiv:2402.09353, eq. 5): any change of a weight, with rows of a length of their own.

W' = m * (W + d) / |W + d|, with the norm of each row (peft; LyCORIS with `wd_on_output`, its default) or, in older
files, of each column. kohya's files hold m as `dora_scale`, (out, 1) or (1, in). What programs do with the former:

- LyCORIS (lycoris/modules/locon.py, `apply_weight_decompose`) and peft divide by |W + d|.
- ComfyUI and Forge (comfy/weight_adapter/base.py, `weight_decompose`) divide by |W|, the base's own rows.
- A1111 (extensions-builtin/Lora/network.py, `apply_weight_decompose`) divides by the norms of columns: other weights.

So that ComfyUI shows what was trained, our kohya-named files hold m |W| / |W + d|, and say so in their header under
`COMFYUI`; without that word `dora_scale` is read as LyCORIS means it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .changes import Change, LowRank, exact

COMFYUI = "tuner.dora_norm"
"""The header's key; its value is `base` where `dora_scale` is over the base's rows."""


@dataclass(frozen=True)
class Decomposed(Change):
    """A change whose rows take lengths of their own.

    Attributes:
        inner: the change before that.
        magnitude: the rows' lengths, (out,), fp32.
        ratio: |W| / |W + d| of each row, (out,), fp32.
        ndim: the weight's number of dimensions.
    """

    inner: Change
    magnitude: Tensor
    ratio: Tensor
    ndim: int
    kind = "dora"

    @classmethod
    def on(cls, weight: Tensor, inner: Change, scale: Tensor, of_base: bool = False) -> Decomposed:
        """For a base's weight. `scale` (out values) is the magnitude or, with `of_base`, what ComfyUI is to be told."""
        ratio = _rows(weight.float()) / _rows(weight.float() + inner.delta(weight))
        scale = scale.float().flatten()
        return cls(inner, scale / ratio if of_base else scale, ratio, weight.ndim)

    @classmethod
    def of(cls, weight: Tensor, inner: Change) -> Decomposed:
        """A change whose rows keep the lengths that it gives them."""
        return cls.on(weight, inner, _rows(weight.float() + inner.delta(weight)))

    @property
    def rank(self) -> int:
        return self.inner.rank

    @property
    def empty(self) -> bool:
        return False

    def update(self) -> Tensor:
        """That of the change before the rows take their lengths."""
        return self.inner.update()

    def delta(self, weight: Tensor) -> Tensor:
        changed = weight.float() + self.inner.delta(weight)
        lengths = (self.magnitude / _rows(changed)).view(-1, *(1,) * (self.ndim - 1))
        return lengths * changed - weight.float()

    def low_rank(self, shape: tuple[int, ...]) -> LowRank:
        """That of the change before; peft has the magnitude beside it."""
        return self.inner.low_rank(shape)

    def whole(self, weight: Tensor) -> LowRank:
        """All of it without magnitudes, as programs weigh it: half of it is half the difference of the weights."""
        return exact(self.delta(weight).flatten(1), tuple(weight.shape))

    def tensors(self) -> dict[str, Tensor]:
        scale = (self.magnitude * self.ratio).view(-1, *(1,) * (self.ndim - 1))
        return {**self.inner.tensors(), "dora_scale": scale}

    def to(self, dtype: torch.dtype) -> Decomposed:
        """Magnitudes stay in fp32: rounded ones would change the base's own rows."""
        return replace(self, inner=self.inner.to(dtype))

    def times(self, weight: float) -> Decomposed:
        """Its rows' lengths do not go with a weight; `whole` has a change that does."""
        if weight != 1:
            raise TypeError("a DoRA takes a weight as its whole difference alone")
        return self


def by_columns(weight: Tensor, inner: Change, scale: Tensor) -> Tensor:
    """The difference of a weight whose columns, not rows, take lengths of their own: in fp32, in the weight's shape."""
    changed = weight.float() + inner.delta(weight)
    norms = changed.transpose(0, 1).flatten(1).norm(dim=1).view(1, -1, *[1] * (weight.ndim - 2))
    return changed * (scale.float().view(norms.shape) / norms) - weight.float()


def _rows(weight: Tensor) -> Tensor:
    """The length of each row, (out,); never zero."""
    return weight.flatten(1).norm(dim=1) + torch.finfo(torch.float32).eps
