"""What a U-Net is told about a picture: a prompt's hidden states and, in some families, pooled text and sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of B pictures.

    Attributes:
        hidden: the text encoders' states, (B, T, D).
        pooled: the pooled text embedding, (B, P), where the family has one.
        time_ids: sizes and crops, (B, 6), where the family has them.
    """

    hidden: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, index: Tensor | slice | list[int]) -> "Conditioning":
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> "Conditioning":
        return self._map(lambda tensor: tensor.to(device))

    def where(self, keep: Tensor, other: "Conditioning") -> "Conditioning":
        """This conditioning where `keep` (B,) is true, elsewhere the other's single row."""
        return self._map(lambda mine, its: torch.where(keep.view(-1, *[1] * (mine.ndim - 1)), mine, its), other)

    def repeated(self, count: int) -> "Conditioning":
        """One row for each of `count` pictures."""
        return self._map(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def zeros(self) -> "Conditioning":
        """One row of nothing but zeros."""
        return self._map(lambda tensor: torch.zeros_like(tensor[:1]))

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """The rows of all parts, one after the other."""
        return parts[0]._map(lambda *columns: torch.cat(columns), *parts[1:])

    def _map(self, change: Callable[..., Tensor], *others: "Conditioning") -> "Conditioning":
        """The same change to every tensor that is there, together with those of others."""
        columns = ([getattr(it, field.name) for it in (self, *others)] for field in fields(self))
        changed = [None if column[0] is None else change(*column) for column in columns]
        assert changed[0] is not None
        return Conditioning(changed[0], *changed[1:])
