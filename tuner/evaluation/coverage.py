"""Precision and recall of one set of pictures against another, from their features (N, D)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from .distances import BLOCK, pair
from .statistics import Figure, wilson

EXACT = "donot_use_mm_for_euclid_dist"  # distances by differences, not by products: copies are at zero exactly


def precision_recall(pictures: ArrayLike, references: ArrayLike, network: str, k: int = 3) -> tuple[Figure, Figure]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2).

    Precision: the share of pictures within reach of a reference, that is no farther from it than its k-th nearest
    other reference is; recall: the same with the roles exchanged. Both depend on the counts: compare equal ones. The
    intervals are Wilson's, for the one set that is counted while the other is taken as it is.

    Args and Raises: as `frechet`; more than k pictures in each set.
    """
    ours, theirs = pair(pictures, references, least=k + 1)
    precision, recall = _covered(ours, theirs, k), _covered(theirs, ours, k)
    names = [f"{word}-{network}" for word in ("precision", "recall")]
    return _rate(names[0], precision, len(ours), len(theirs)), _rate(names[1], recall, len(ours), len(theirs))


def _rate(name: str, hits: np.ndarray, count: int, against: int) -> Figure:
    low, high = wilson(float(hits.sum()), len(hits))
    return Figure(name, float(hits.mean()), count, low, high, against=against, unit="share")


def _covered(points: np.ndarray, centres: np.ndarray, k: int) -> np.ndarray:
    """Which points (N,) lie in the ball of a centre, whose radius reaches its k-th nearest other centre."""
    of, among = torch.from_numpy(points), torch.from_numpy(centres)
    radii = torch.cat([torch.cdist(b, among, compute_mode=EXACT).kthvalue(k + 1).values for b in among.split(BLOCK)])
    return torch.cat([(torch.cdist(b, among, compute_mode=EXACT) <= radii).any(dim=1) for b in of.split(BLOCK)]).numpy()
