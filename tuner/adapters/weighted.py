"""Adapters with weights: one for the whole file, and others for parts of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import RequestError
from .naming import Target
from .places import Place
from .source import Source


@dataclass(frozen=True)
class Weighted:
    """A file and its weights.

    Attributes:
        source: the file.
        weight: what its update is multiplied by.
        blocks: weights that parts of the model have instead, by the beginning of their names.
        shared: those of the blocks that were named for all files together.
    """

    source: Source
    weight: float = 1.0
    blocks: Mapping[str, float] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()

    def at(self, target: Target) -> float:
        """The weight of a module: that of the longest block that it is in, else the file's."""
        found = [block for block in self.blocks if within(target, block)]
        return self.blocks[max(found, key=len)] if found else self.weight

    @property
    def plain(self) -> bool:
        return self.weight == 1 and not self.blocks


def within(target: Target, block: str) -> bool:
    """Whether a module is in a block: `unet`, `down_blocks.1`, `input_blocks.4`, `text_encoder_2.encoder.layers.0`."""
    return any(name == block or name.startswith(f"{block}.") for name in (target.name, target.path, target.original))


def check_blocks(adapters: Sequence[Weighted], found: Sequence[Place]) -> None:
    """Refuse a block in which its file changes nothing; one that was named for all files, where none does."""
    for number, adapter in enumerate(adapters):
        own = [place.target for place in found if any(n == number for n, _ in place.parts)]
        for block in adapter.blocks:
            asked = [place.target for place in found] if block in adapter.shared else own
            if not any(within(target, block) for target in asked):
                who = "none of the adapters changes anything" if block in adapter.shared else ""
                who = who or f"{adapter.source.path} changes nothing"
                raise RequestError(
                    f"--block {block}: {who} there; a block is called {asked[0].name}, or as such a name begins."
                )
