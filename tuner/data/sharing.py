"""Work that is done once, whoever does it: by one process, or by several that share a cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from .cache import Cache

T = TypeVar("T")
ENCODING_BATCH, ENCODING_PIXELS = 16, 2**20  # at once: so many pictures or captions, and so many pixels


def make_missing(
    cache: Cache,
    items: Sequence[T],
    there: Callable[[T], bool],
    work: Callable[[list[T]], None],
    size: Callable[[T], tuple[int, int]] = lambda item: (1, 1),
) -> None:
    """Do the `work` of all items that are not `there`, in chunks of one size; in several processes each does a part.

    Whatever goes wrong in a part is left to be done again by all, so that all fail alike and none waits for ever.
    """

    def chunks() -> list[list[T]]:
        groups: dict[tuple[int, int], list[T]] = {}
        for item in items:
            if not there(item):
                groups.setdefault(size(item), []).append(item)
        return [
            group[start : start + count]
            for (height, width), group in groups.items()
            for count in [min(ENCODING_BATCH, max(1, ENCODING_PIXELS // (height * width)))]
            for start in range(0, len(group), count)
        ]

    several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    if cache.shared and several:
        parts = chunks()
        torch.distributed.barrier()
        for part in parts[torch.distributed.get_rank() :: torch.distributed.get_world_size()]:
            with contextlib.suppress(Exception):
                work(part)
        torch.distributed.barrier()
    for part in chunks():
        work(part)
