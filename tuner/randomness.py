"""Randomness as a pure function: every draw comes from (run seed, optimizer step, place in the global batch, purpose).

Nothing is drawn from global state, so resuming, accumulating, adding processes or workers cannot change a run.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from any words and numbers; the same on every machine (BLAKE2b)."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `seed_of(*parts)`."""
    return torch.Generator().manual_seed(seed_of(*parts))


def shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order, (count,), in which epoch `epoch` visits `count` examples."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def use_threads(wanted: int = 0) -> int:
    """Fix the number of CPU threads for the process: as wanted, or as many cores as others leave idle just now."""
    if not wanted and torch.get_num_threads() > 1:
        import psutil

        busy = psutil.cpu_percent(interval=0.2) / 100  # the load average still counts what ended a minute ago
        wanted = max(1, min(round((os.cpu_count() or 1) * (1 - busy)), torch.get_num_threads()))
    if wanted:
        torch.set_num_threads(wanted)
    return torch.get_num_threads()


@dataclass(frozen=True)
class Draws:
    """The random draws of the examples of one batch.

    Each example has a key; a draw depends on that key and on the purpose's name alone, so an example gets the same
    numbers whatever else is in its batch. Drawn on the CPU and moved, so every device gets the same numbers.
    """

    keys: tuple[str, ...]
    device: torch.device | str = "cpu"

    @classmethod
    def at(cls, seed: int, step: int, positions: Sequence[int], device: torch.device | str = "cpu") -> "Draws":
        """The draws of `positions` in the global batch of optimizer step `step`."""
        return cls(tuple(f"{seed}/{step}/{position}" for position in positions), device)

    @property
    def here(self) -> "Draws":
        """The same, left on the CPU: for numbers that Python reads, which no device is to be waited for."""
        return replace(self, device="cpu")

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal numbers, (B, *shape)."""
        return self._stack([torch.randn(shape, generator=generator(key, purpose)) for key in self.keys])

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Numbers in [0, 1), (B, *shape)."""
        return self._stack([torch.rand(shape, generator=generator(key, purpose)) for key in self.keys])

    def integers(self, purpose: str, high: int, *shape: int) -> Tensor:
        """Integers in [0, high), (B, *shape)."""
        return self._stack([torch.randint(high, shape, generator=generator(key, purpose)) for key in self.keys])

    def _stack(self, rows: list[Tensor]) -> Tensor:
        return torch.stack(rows).to(self.device)
