"""Precision and recall of one set of pictures against another, from their features (N, D)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .distances import BLOCK, pair
from .statistics import Figure, wilson

ROUNDING = 1e-12  # of the largest squared length: how far a squared distance by products may be off


def precision_recall(pictures: ArrayLike, references: ArrayLike, network: str, k: int = 3) -> tuple[Figure, Figure]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2).

    Precision: the share of pictures within reach of a reference, that is no farther from it than its k-th nearest
    other reference is; recall: the same with the roles exchanged. Both depend on the counts: compare equal ones. The
    intervals are Wilson's, for the one set that is counted while the other is taken as it is.

    Args:
        pictures, references: features (N, D) and (M, D).
        network: whose features these are.
        k: which neighbour sets the reach.

    Raises:
        RequestError: not more than k pictures in a set, features that are not finite or not of one length.
    """
    ours, theirs = pair(pictures, references, least=k + 1)
    middle = theirs.mean(axis=0)  # near it, products lose the fewest digits
    ours, theirs = ours - middle, theirs - middle
    return (
        _share(f"precision-{network}", _covered(ours, theirs, k), len(ours), len(theirs)),
        _share(f"recall-{network}", _covered(theirs, ours, k), len(ours), len(theirs)),
    )


def _share(name: str, hits: np.ndarray, count: int, against: int) -> Figure:
    low, high = wilson(float(hits.sum()), len(hits))
    return Figure(name, float(hits.mean()), count, low, high, against=against, unit="share")


def _covered(points: np.ndarray, centres: np.ndarray, k: int) -> np.ndarray:
    """Which points (N,) lie in the ball of a centre, whose radius reaches its k-th nearest other centre."""
    largest = max(float((table * table).sum(axis=1).max()) for table in (points, centres))
    # Each centre is its own nearest. A tie counts as within, so rounding must not decide it: copies are ties.
    radii = [np.partition(_squared(block, centres), k, axis=1)[:, k] for block in _blocks(centres)]
    reach = np.concatenate(radii) + ROUNDING * largest
    return np.concatenate([(_squared(block, centres) <= reach).any(axis=1) for block in _blocks(points)])


def _squared(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Squared distances, (N, M)."""
    return (left * left).sum(axis=1)[:, None] + (right * right).sum(axis=1) - 2 * left @ right.T


def _blocks(table: np.ndarray) -> list[np.ndarray]:
    return [table[start : start + BLOCK] for start in range(0, len(table), BLOCK)]
