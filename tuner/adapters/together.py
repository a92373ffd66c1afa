"""Adapters that one run leaves and that belong together, such as a LoRA and the word that it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion
    from .artifact import Export


class Together:
    """Several exports as one (an `Export`).

    Args:
        parts: by what the run's name is lengthened with for its files; "" for the main one, which stands first.
    """

    def __init__(self, parts: Mapping[str, Export]) -> None:
        self.parts = dict(parts)
        self._counts: list[int] = []

    def write(self, folder: Path, name: str, dtype: torch.dtype) -> list[Path]:
        """Write all files; their paths, part by part."""
        written = [part.write(folder, name + suffix, dtype) for suffix, part in self.parts.items()]
        self._counts = [len(paths) for paths in written]
        return [path for paths in written for path in paths]

    def prove(self, paths: list[Path], base: LatentDiffusion) -> list[str]:
        """Prove each part by itself. Raises RunError where one of them does not load whole."""
        return [sentence for part, own in self._each(paths) for sentence in part.prove(own, base)]

    def usage(self, paths: list[Path], prompt: str) -> str:
        """How to use each part, as Markdown; they are used together."""
        told = [part.usage(own, prompt) for part, own in self._each(paths)]
        return "\n".join(["Use these together.\n", *told])

    def flags(self, paths: list[Path], base: str) -> str:
        """What `tuner generate` is told to draw with all of them."""
        return " ".join(dict.fromkeys(part.flags(own, base) for part, own in self._each(paths)))

    def _each(self, paths: list[Path]) -> list[tuple[Export, list[Path]]]:
        rest, found = list(paths), []
        for part, count in zip(self.parts.values(), self._counts, strict=True):
            found.append((part, rest[:count]))
            rest = rest[count:]
        return found
