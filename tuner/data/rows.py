"""Rows of tensors that are read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

ROOM = 2**30  # bytes that are kept in memory


class Row(Protocol):
    """A tensor that can be read.

    Attributes:
        name: what it is, for messages.
        key: what it depends on: rows of the same key are the same.
    """

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str: ...

    def read(self) -> Tensor: ...


@dataclass(frozen=True)
class Held:
    """A tensor that is in memory."""

    name: str
    key: str
    tensor: Tensor

    def read(self) -> Tensor:
        return self.tensor


class Rows:
    """Tensors by their number. What was read stays in memory as long as there is room, the rest is read each time.

    Args:
        rows: the tensors.
        room: bytes to keep; by default `ROOM`.
    """

    def __init__(self, rows: Sequence[Row], room: int | None = None) -> None:
        self.rows = list(rows)
        self._kept: dict[str, Tensor] = {}
        self._room = ROOM if room is None else room

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        row = self.rows[index]
        kept = self._kept.get(row.key)
        return self.keep(row.key, row.read()) if kept is None else kept

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def take(self, index: Sequence[int]) -> Tensor:
        """Rows of one shape, stacked: (B, ...)."""
        return torch.stack([self[i] for i in index])

    def keep(self, key: str, tensor: Tensor, always: bool = False) -> Tensor:
        """Keep a row that was read, where there is room, or `always`."""
        if always or tensor.nbytes <= self._room:
            self._kept[key] = tensor
            self._room -= tensor.nbytes
        return tensor

    def knows(self, key: str) -> bool:
        """Whether the rows of this key are in memory."""
        return key in self._kept

    @property
    def full(self) -> bool:
        """Whether there is no more room, or little."""
        return self._room < ROOM // 1024

    def only(self, index: Sequence[int]) -> Rows:
        """Some of the rows."""
        return self._with([self.rows[i] for i in index], self._kept)

    def __add__(self, other: Rows) -> Rows:
        """These rows, then the other's."""
        return self._with([*self.rows, *other.rows], {**self._kept, **other._kept})

    def _with(self, rows: Sequence[Row], kept: dict[str, Tensor]) -> Rows:
        made = Rows(rows, self._room)
        made._kept = dict(kept)
        return made
