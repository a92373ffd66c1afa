"""Artifact: tensors and metadata. The only reader and writer of safetensors files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..errors import RequestError
from ..files import replacing
from .container import read_header

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion


@dataclass(frozen=True)
class Artifact:
    """What a safetensors file holds.

    Attributes:
        tensors: by name.
        metadata: the header's strings.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file atomically; the same tensors and metadata give the same bytes."""
        from safetensors.torch import save_file

        tensors = {name: self.tensors[name].detach().cpu().contiguous() for name in sorted(self.tensors)}
        with replacing(path) as part:
            save_file(tensors, part, dict(self.metadata))
            _sort_metadata(part)

    @classmethod
    def load(cls, path: Path, finite: bool = True) -> Artifact:
        """Read a file.

        Args:
            finite: refuse it where it holds values that are not.

        Raises:
            RequestError: it is not there, is a pickle, is not a whole safetensors file, names a tensor twice, or holds
                values that are not finite.
        """
        from safetensors import SafetensorError, safe_open

        read_header(path)
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                metadata = dict(file.metadata() or {})
        except (SafetensorError, OSError) as error:  # what we did not foresee
            raise RequestError(f"{path} is not a whole safetensors file ({error}); fetch or write it again.") from None
        for name, tensor in tensors.items():
            if finite:
                check_finite(tensor, name, path)
        return cls(tensors, metadata)

    def to(self, dtype: torch.dtype) -> Artifact:
        """The same with its floating-point tensors in another precision."""
        return Artifact(
            {n: t.to(dtype) if t.is_floating_point() else t for n, t in self.tensors.items()}, self.metadata
        )


def check_finite(tensor: Tensor, name: str, path: Path) -> None:
    """Refuse a file's tensor that holds values which are not finite. torch has no such question of eight-bit ones.

    The least and the greatest value tell it in a tenth of the time: both are NaN where one value is.
    """
    plain = tensor.float() if tensor.element_size() == 1 else tensor
    if tensor.numel() and not all(math.isfinite(edge.item()) for edge in plain.aminmax()):
        raise RequestError(f"{path} holds values that are not finite in `{name}`; it cannot be used.")


def _sort_metadata(path: Path) -> None:
    """Put a safetensors file's metadata in order: the library writes them in another order each time."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
        assert len(text) == size, "sorting has changed the header's length"
        file.seek(8)
        file.write(text)


class Export(Protocol):
    """What a recipe leaves: it writes itself into a run's folder, and then proves that others can load it."""

    def write(self, folder: Path, name: str, dtype: torch.dtype) -> list[Path]:
        """Write the files, atomically; their paths."""

    def prove(self, paths: list[Path], base: LatentDiffusion) -> list[str]:
        """Load the written files as other programs do, on a fresh base; a sentence for each proof.

        By then the trained model's weights are gone.

        Raises:
            RunError: a file would load in part, or with no effect.
        """

    def usage(self, paths: list[Path], prompt: str) -> str:
        """How to use the written files, as Markdown."""

    def flags(self, paths: list[Path], base: str) -> str:
        """What `tuner generate` is told to draw with the written files."""
