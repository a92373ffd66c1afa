"""Which example stands where: a pure function of the seed, the step and the place in the global batch.

A global batch comes from one bucket, as its pictures must have one size. Each bucket has its own stream of visits,
epoch after epoch, each in an order of its own. In a cycle of as many steps as there are visits, a bucket with n visits
gets n steps, spread evenly: over a cycle every visit is paid equally often, whatever the batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..randomness import seed_of, shuffled


class Order:
    """The order of visits.

    Args:
        seed: the run's.
        buckets: the examples that an epoch visits, bucket by bucket; an example may stand there several times.
    """

    def __init__(self, seed: int, buckets: Sequence[np.ndarray]) -> None:
        self.seed = seed
        self.buckets = [bucket for bucket in buckets if len(bucket)]
        self._counts = tuple(len(bucket) for bucket in self.buckets)

    def examples(self, step: int, positions: Sequence[int], global_batch: int) -> list[int]:
        """The examples at these places of the global batch of a step (from 0)."""
        bucket, taken = self._turn(step)
        visits, count = self.buckets[bucket], self._counts[bucket]
        places = [divmod(taken * global_batch + position, count) for position in positions]
        return [int(visits[_epoch(self.seed, bucket, epoch, count)[offset]]) for epoch, offset in places]

    def _turn(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and how many steps it had before."""
        if len(self._counts) == 1:
            return 0, step
        cycle, place = divmod(step, sum(self._counts))
        turns, before = _cycle(self.seed, cycle, self._counts)
        bucket = int(turns[place])
        return bucket, cycle * self._counts[bucket] + int(before[place])


@lru_cache(maxsize=64)
def _epoch(seed: int, bucket: int, epoch: int, count: int) -> np.ndarray:
    """The order of a bucket's visits in an epoch, (count,)."""
    return shuffled(seed if bucket == 0 else seed_of(seed, "bucket", bucket), epoch, count)


@lru_cache(maxsize=4)
def _cycle(seed: int, cycle: int, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The buckets of a cycle's steps, and how many steps of the cycle each had before; both (V,).

    The i-th of a bucket's n steps comes at (i + u) / n of the cycle, with u drawn once a bucket and cycle.
    """
    starts = np.random.default_rng(seed_of(seed, "cycle", cycle)).random(len(counts))
    keys = np.concatenate([(np.arange(n) + start) / n for n, start in zip(counts, starts, strict=True)])
    owner = np.repeat(np.arange(len(counts)), counts)
    number = np.concatenate([np.arange(n) for n in counts])
    order = np.argsort(keys, kind="stable")
    return owner[order], number[order]
