"""What a U-Net is told about a picture: the prompt's hidden states and, where a family has them, pooled text and sizes."""

from collections.abc import Sequence
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

    def to(self, *args, **kwargs) -> "Conditioning":
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def where(self, keep: Tensor, other: "Conditioning") -> "Conditioning":
        """This conditioning where `keep` (B,) is true, elsewhere the other's single row."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Conditioning(**{
            name: None if mine is None else torch.where(keep.view(-1, *[1] * (mine.ndim - 1)), mine, theirs)
            for name, (mine, theirs) in pairs.items()
        })  # fmt: skip

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """The rows of all parts, one after the other."""
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Conditioning)}
        return Conditioning(**{n: None if column[0] is None else torch.cat(column) for n, column in columns.items()})

    def _map(self, change) -> "Conditioning":
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Conditioning(**{name: None if value is None else change(value) for name, value in values.items()})
