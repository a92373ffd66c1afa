"""Work that is done once, whoever does it: by one process, or by several that share a cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TypeVar

import torch

from .cache import Cache

T = TypeVar("T")
ENCODING_BATCH, ENCODING_PIXELS = 16, 2**20  # at once: so many pictures or captions, and so many pixels
Tell = Callable[[int, int, str], None]
_telling: ContextVar[Tell] = ContextVar("telling", default=lambda done, total, what: None)


@contextlib.contextmanager
def heard(tell: Tell) -> Iterator[None]:
    """`tell` hears of all work within how much of it is done, of how much, and of what."""
    token = _telling.set(tell)
    try:
        yield
    finally:
        _telling.reset(token)


def make_missing(
    cache: Cache,
    what: str,
    items: Sequence[T],
    there: Callable[[T], bool],
    work: Callable[[list[T]], None],
    size: Callable[[T], tuple[int, int]] = lambda item: (1, 1),
) -> None:
    """Do the `work` of all items that are not `there`, in chunks of one size; in several processes each does a part.

    Whatever goes wrong in a part is left to be done again by all, so that all fail alike and none waits for ever.

    Args:
        what: is done to an item, in words.
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

    def work_on(parts: Sequence[list[T]], forgiving: bool = False) -> None:
        done, total, tell = 0, sum(map(len, parts)), _telling.get()
        for part in parts:
            with contextlib.suppress(*[Exception] * forgiving):
                work(part)
            done += len(part)
            tell(done, total, what)

    several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    if cache.shared and several:
        parts = chunks()
        torch.distributed.barrier()
        work_on(parts[torch.distributed.get_rank() :: torch.distributed.get_world_size()], forgiving=True)
        torch.distributed.barrier()
    work_on(chunks())
