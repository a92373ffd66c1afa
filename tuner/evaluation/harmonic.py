"""The harmonic mean of shares: high only where all of them are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .lines import interval
from .statistics import Figure


def harmonic(parts: Sequence[Figure], name: str) -> Figure:
    """The harmonic mean of shares that were measured on different pictures; 0 where one of them is 0.

    Its interval comes from theirs: each part alone is moved to its end, and what that changes is added as independent
    errors are (Zou & Donner 2008, Statistics in Medicine 27, for sums; here for any function that grows in each part).
    Where a part is 0 no other one counts, so there all of them are moved at once, which is wider than need be.
    """
    values = [part.value for part in parts]
    value, found = _mean(values), [interval(part) for part in parts]
    n, known = sum(part.n for part in parts), [ends for ends in found if ends]
    if len(known) < len(found):
        told = "a part of it has no interval, so this has none"
        return Figure(name, value, n, unit="share", warning=told)
    low, high = (_end(values, [ends[side] for ends in known]) for side in (0, 1))
    return Figure(name, value, n, low, high, unit="share")


def _mean(values: Sequence[float]) -> float:
    return len(values) / sum(1 / value for value in values) if min(values) > 0 else 0.0


def _end(values: Sequence[float], ends: Sequence[float]) -> float:
    """One end of the interval, never beyond where all parts are at their ends."""
    whole, value = _mean(ends), _mean(values)
    if not value:
        return whole
    alone = [_mean([*values[:i], end, *values[i + 1 :]]) - value for i, end in enumerate(ends)]
    return value + math.copysign(min(math.hypot(*alone), abs(whole - value)), whole - value)
