"""Buckets by aspect ratio: what size a picture trains at, how far it is scaled, and what is cropped.

The idea: NovelAI 2022, "Aspect ratio bucketing". What SDXL is told of sizes: Podell et al. 2023 (arXiv:2307.01952),
section 2.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

WIDEST = 2.0  # the longer side of a bucket is at most so many times the shorter
FULL = 0.75  # and its area at least this share of the square's
SMALLEST, LONGEST = 16, 10.0  # pictures with a shorter side, or a longer shape, are of no use

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Placement:
    """How a picture comes to its bucket. All sizes are (width, height) in pixels.

    Attributes:
        original: the picture, upright.
        bucket: what it trains at.
        scaled: the picture when it just covers the bucket.
        left, top: the bucket's corner in it.
    """

    original: Size
    bucket: Size
    scaled: Size
    left: int
    top: int

    @property
    def enlarged(self) -> bool:
        return self.scaled[0] > self.original[0] or self.scaled[1] > self.original[1]

    @property
    def lost(self) -> float:
        """The share of the picture that is cropped away."""
        return 1 - self.bucket[0] * self.bucket[1] / (self.scaled[0] * self.scaled[1])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Original height and width, crop top and left, target height and width."""
        return (*self.original[::-1], self.top, self.left, *self.bucket[::-1])


@lru_cache(maxsize=8)
def buckets(side: int, unit: int) -> tuple[Size, ...]:
    """The sizes that pictures train at.

    Args:
        side: of the square; no bucket has a larger area.
        unit: what all sides must be multiples of. The steps between buckets are at least a sixteenth of `side`.
    """
    step = max(unit, round(side / 16 / unit) * unit)
    found = {(side, side)}
    for short in range(step, side, step):
        long = int(min(side * side // short, short * WIDEST)) // step * step
        if long > short and short * long >= FULL * side * side:
            found |= {(short, long), (long, short)}
    return tuple(sorted(found))


def placement(size: Size, side: int, unit: int, squares: bool = False) -> Placement:
    """The bucket with the nearest aspect ratio, and the middle of the picture in it; `squares` leaves only the square.

    Raises:
        ValueError: the picture is too small or too long to be of use; the message says so.
    """
    width, height = size
    if min(size) < SMALLEST:
        raise ValueError(f"it has {width} x {height} pixels; the shorter side must have {SMALLEST}")
    if max(size) > LONGEST * min(size):
        raise ValueError(f"it has {width} x {height} pixels; the longer side may be {LONGEST:g} times the shorter")
    choice = ((side, side),) if squares else buckets(side, unit)
    bucket = min(choice, key=lambda it: (round(abs(math.log(width * it[1] / (height * it[0]))), 9), -it[0] * it[1]))
    scale = max(bucket[0] / width, bucket[1] / height)
    scaled = max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale))
    return Placement(size, bucket, scaled, (scaled[0] - bucket[0]) // 2, (scaled[1] - bucket[1]) // 2)
