"""Figures that say how sure they are: means, shares and differences with 95% intervals over prompts or concepts.

Pictures of one prompt resemble each other, so a set of them tells less than its size promises. Whole groups (prompts,
concepts) are resampled: the cluster bootstrap (Davison & Hinkley 1997, section 3.8), percentile interval. Shares of
independent pictures have the interval of Wilson (1927), which holds near 0 and 1 as well.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import RequestError

RESAMPLES = 2000
Z = 1.959963984540054  # the normal quantile of a two-sided 95% interval
FEW_GROUPS = 10  # under it, the percentile interval is too narrow
CHUNK = 4_000_000  # draws held at once while resampling: 32 MB


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        name: what was measured, with what: "FD-judge", "CLIP score".
        value: the number; infinite where the PSNR of equal pictures is.
        n: how many pictures, or pairs of them, it is from.
        low, high: the 95% interval, where there is one.
        error: the standard error, where there is one.
        against: how many reference pictures it was measured against, for distances between sets.
        groups: how many groups (prompts, concepts) were resampled.
        unit: "dB", "share"; "" where the number has none.
        warning: why not to trust it; "" where nothing speaks against it.
    """

    name: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None
    error: float | None = None
    against: int | None = None
    groups: int | None = None
    unit: str = ""
    warning: str = ""

    def json(self) -> dict[str, str | int | float | None]:
        """What a report holds: only what is known. A number that is not finite, which JSON lacks, is null."""
        known = {key: value for key, value in asdict(self).items() if value is not None and value != ""}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in known.items()}

    def __str__(self) -> str:
        words = f"{self.name} {self.value:.4g}" + (f" {self.unit}" if self.unit else "")
        if self.low is not None and self.high is not None:
            words += f" ({self.low:.4g} to {self.high:.4g})"
        elif self.error is not None:
            words += f" ± {self.error:.2g}"
        counts = f"n = {self.n}" + ("" if self.against is None else f" against {self.against}")
        return f"{words}, {counts}" + ("" if self.groups is None else f", {self.groups} groups")


def mean(
    values: ArrayLike, name: str, groups: Sequence[Hashable] | None = None, unit: str = "", seed: int = 0
) -> Figure:
    """The mean of values (N,) and its interval by resampling groups; without groups, every picture is its own.

    Raises:
        RequestError: there are no values, one is NaN, or the groups are not one for each.
    """
    numbers = _numbers(values, name)
    if np.isinf(numbers).any():
        told = f"{int(np.isinf(numbers).sum())} of {len(numbers)} values are infinite, so no mean can be given"
        return Figure(name, float(numbers.sum()), len(numbers), unit=unit, warning=told)
    sums, counts = _by_group(numbers, groups, name)
    value = float(sums.sum() / counts.sum())
    if len(sums) == 1:
        told = "one group alone tells nothing of how others would differ: there is no interval"
        return Figure(name, value, len(numbers), groups=1, unit=unit, warning=told)
    low, high = np.quantile(_resampled(sums, counts, seed), (0.025, 0.975))
    warning = f"{len(sums)} groups are few: the interval is too narrow" if len(sums) < FEW_GROUPS else ""
    shown = None if groups is None else len(sums)
    return Figure(name, value, len(numbers), float(low), float(high), groups=shown, unit=unit, warning=warning)


def share(hits: ArrayLike, name: str, groups: Sequence[Hashable] | None = None, seed: int = 0) -> Figure:
    """The share of hits (N,), booleans: Wilson's interval, or with groups the cluster bootstrap's.

    Where all hit or none does, every resample is the same: then it is Wilson's interval with groups for pictures,
    which is wide enough whatever the pictures of a group have in common.

    Raises:
        RequestError: as `mean`.
    """
    numbers = _numbers(hits, name)
    if groups is not None and 0 < numbers.mean() < 1:
        return mean(numbers, name, groups, "share", seed)
    trials = len(numbers) if groups is None else len(_by_group(numbers, groups, name)[0])
    low, high = wilson(float(numbers.mean()) * trials, trials)
    shown = None if groups is None else trials
    return Figure(name, float(numbers.mean()), len(numbers), low, high, groups=shown, unit="share")


def difference(
    before: ArrayLike,
    after: ArrayLike,
    name: str,
    groups: Sequence[Hashable] | None = None,
    unit: str = "",
    seed: int = 0,
) -> Figure:
    """The mean of after - before, (N,) each, pair by pair (same prompt, same seed): what they share cancels out.

    Raises:
        RequestError: as `mean`, or they are not pairs.
    """
    first, second = _numbers(before, name), _numbers(after, name)
    if len(first) != len(second):
        raise RequestError(
            f"{name}: {len(first)} values before and {len(second)} after are not pairs; give equally many."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise RequestError(f"{name}: infinite values have no difference; leave those pairs out.")
    return mean(second - first, name, groups, unit, seed)


def wilson(hits: float, trials: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927, JASA 22): low and high, within [0, 1]."""
    if not (trials > 0 and 0 <= hits <= trials):
        raise RequestError(f"{hits:g} hits of {trials} trials are not a share; give at least one trial.")
    rate, square = hits / trials, Z * Z / trials
    middle = (rate + square / 2) / (1 + square)
    half = math.sqrt(rate * (1 - rate) * square + square * square / 4) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def _numbers(values: ArrayLike, name: str) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise RequestError(f"{name}: there is nothing to measure; give at least one picture.")
    if np.isnan(numbers).any():
        raise RequestError(f"{name}: {int(np.isnan(numbers).sum())} of {len(numbers)} values are not numbers (NaN).")
    return numbers


def _by_group(numbers: np.ndarray, groups: Sequence[Hashable] | None, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the count of every group, (G,) each."""
    if groups is None:
        return numbers, np.ones(len(numbers))
    if len(groups) != len(numbers):
        raise RequestError(f"{name}: {len(groups)} groups for {len(numbers)} pictures; give one for each picture.")
    places = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    index = np.array([places[group] for group in groups])
    return np.bincount(index, numbers), np.bincount(index).astype(np.float64)


def _resampled(sums: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """The mean of each resample, (RESAMPLES,): as many groups as there are, drawn with replacement."""
    random, size = np.random.default_rng(seed), len(sums)
    rows = max(1, min(RESAMPLES, CHUNK // size))
    means: list[np.ndarray] = []
    for start in range(0, RESAMPLES, rows):
        drawn = random.integers(size, size=(min(rows, RESAMPLES - start), size))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)
