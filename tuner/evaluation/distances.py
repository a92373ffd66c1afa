"""How far two sets of pictures are from each other, from their features (N, D) alone.

A distance is named after the network whose features it was measured in: FD-judge, KID-dinov2-base. Only with
Inception's are they called FID, KID and IS: figures of other networks must not be compared with those of papers.
Everything is computed in float64.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..errors import RequestError
from .statistics import Figure

ENOUGH = 2000  # pictures; under it, Fréchet distance and Inception Score say more of the count than of the pictures
FEW = 100  # pictures; under it, KID is hardly more than its error
INCEPTION = "Inception"
BLOCK = 2048  # rows of a kernel or distance matrix held at once


def frechet(pictures: ArrayLike, references: ArrayLike, network: str, folds: int = 10) -> Figure:
    """Fréchet distance of two Gaussians (Heusel et al. 2017, arXiv:1706.08500, eq. 6): FID, or FD in other features.

    |m - m'|^2 + Tr(C + C' - 2 (C C')^(1/2)), C with n - 1. The trace of the root is the sum of the singular values of
    R R'^T, where C = R^T R: the same as through the eigenvalues of C^(1/2) C' C^(1/2), but nothing is squared first,
    so singular covariances (N < D) and equal sets lose no digits. The standard error is a jackknife's that leaves out
    a fold of both sets at a time; it says nothing of the bias, which is upwards and falls as 1/N.

    Args:
        pictures, references: features (N, D) and (M, D).
        network: whose features these are.
        folds: of the jackknife; 0 gives no standard error and is `folds` times as fast.

    Raises:
        RequestError: fewer than two pictures, features that are not finite or not of one length.
    """
    ours, theirs = pair(pictures, references)
    value, error, smallest = _frechet(ours, theirs), None, min(len(ours), len(theirs))
    folds = min(folds, smallest)
    if folds > 1 and smallest - math.ceil(smallest / folds) >= 2:
        left = np.array([_frechet(_without(ours, i, folds), _without(theirs, i, folds)) for i in range(folds)])
        error = _jackknife(left)
    name, enough = named("FD", "FID", network), max(ENOUGH, ours.shape[1])
    warning = "" if smallest >= enough else (
        f"{name} of fewer than {enough:,} pictures is too high by an unknown amount; compare it only with {name} of "
        "equally many, or use KID"
    )  # fmt: skip
    return Figure(name, value, len(ours), error=error, against=len(theirs), warning=warning)


def kid(pictures: ArrayLike, references: ArrayLike, network: str) -> Figure:
    """Kernel distance over the full sets: the figure to report.

    The unbiased estimate of MMD^2 with the kernel (x.y / D + 1)^3 (Bińkowski et al. 2018, arXiv:1801.01401, section
    4 and eq. 4); it may be negative. The standard error is the two-sample delete-one jackknife's, from the kernels'
    row sums; for equal distributions it is up to 1.4 times too large, so it errs on the careful side.

    Args and Raises: as `frechet`.
    """
    ours, theirs = pair(pictures, references)
    name, smallest = named("KID", "KID", network), min(len(ours), len(theirs))
    warning = f"{name} of fewer than {FEW} pictures is hardly more than its error" if smallest < FEW else ""
    value, error = _mmd(ours, theirs)
    return Figure(name, value, len(ours), error=error, against=len(theirs), warning=warning)


def kid_subsets(
    pictures: ArrayLike, references: ArrayLike, network: str, subsets: int = 100, size: int = 1000, seed: int = 0
) -> Figure:
    """KID as it is usually given: the mean over random subsets, for comparison with others' figures.

    Its error is that of the mean over subsets of these very pictures (standard deviation / sqrt(subsets)), not over
    new pictures; papers often print the standard deviation itself. `size` is at most half of the smaller set.
    """
    ours, theirs = pair(pictures, references)
    size, random = max(2, min(size, len(ours) // 2, len(theirs) // 2)), np.random.default_rng(seed)
    drawn = [
        _mmd(ours[random.permutation(len(ours))[:size]], theirs[random.permutation(len(theirs))[:size]])[0]
        for _ in range(max(2, subsets))
    ]
    name = f"{named('KID', 'KID', network)}, mean of {len(drawn)} subsets of {size}"
    error = float(np.std(drawn, ddof=1) / math.sqrt(len(drawn)))
    return Figure(name, float(np.mean(drawn)), len(ours), error=error, against=len(theirs))


def inception_score(probabilities: ArrayLike, network: str, splits: int = 10, seed: int = 0) -> Figure:
    """exp of the mean KL divergence of p(y|x) from p(y) (Salimans et al. 2016, arXiv:1606.03498, section 4).

    Args:
        probabilities: of the classes, (N, classes); every row sums to 1.
        network: the classifier's name.
        splits: the score is the mean over so many parts, dealt at random; its error is std / sqrt(splits), where
            papers print the standard deviation itself.
        seed: of the dealing.

    Raises:
        RequestError: fewer pictures than splits, or rows that are no probabilities.
    """
    table = matrix(probabilities, "class probabilities")
    if (table < 0).any() or not np.allclose(table.sum(axis=1), 1, atol=1e-3):
        raise RequestError("The Inception Score takes class probabilities; these are negative or do not sum to 1.")
    if not 1 <= splits <= len(table):
        raise RequestError(f"{len(table)} pictures cannot be dealt into {splits} splits; give more pictures.")
    table = table / table.sum(axis=1, keepdims=True)
    parts = np.array_split(table[np.random.default_rng(seed).permutation(len(table))], splits)
    scores = [math.exp(_entropy(part.mean(axis=0)) - float(np.mean(_entropy(part)))) for part in parts]
    error = float(np.std(scores, ddof=1) / math.sqrt(splits)) if splits > 1 else None
    name = named("IS", "IS", network)
    warning = f"{name} of fewer than {ENOUGH:,} pictures is too low" if len(table) < ENOUGH else ""
    return Figure(name, float(np.mean(scores)), len(table), error=error, warning=warning)


def named(plain: str, inception: str, network: str) -> str:
    return inception if network == INCEPTION else f"{plain}-{network}"


def matrix(values: ArrayLike, what: str = "features", least: int = 1) -> np.ndarray:
    """(N, D), float64, finite, at least `least` rows."""
    table = np.asarray(values.cpu() if isinstance(values, torch.Tensor) else values, dtype=np.float64)
    if table.ndim != 2 or not table.shape[1]:
        raise RequestError(f"The {what} have the shape {table.shape}; one row for each picture is needed, (N, D).")
    if len(table) < least:
        raise RequestError(f"A set of {len(table)} pictures is too small for this measure; give at least {least}.")
    if not np.isfinite(table).all():
        bad = int((~np.isfinite(table)).any(axis=1).sum())
        raise RequestError(f"The {what} of {bad} of {len(table)} pictures are not finite; check what drew them.")
    return table


def pair(pictures: ArrayLike, references: ArrayLike, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    ours, theirs = matrix(pictures, least=least), matrix(references, least=least)
    if ours.shape[1] != theirs.shape[1]:
        raise RequestError(
            f"Features of length {ours.shape[1]} and {theirs.shape[1]} cannot be compared; use one network for both."
        )
    return ours, theirs


def _frechet(ours: np.ndarray, theirs: np.ndarray) -> float:
    apart = ours.mean(axis=0) - theirs.mean(axis=0)
    roots = _root(ours), _root(theirs)
    common = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum(float((root * root).sum()) for root in roots)
    return max(0.0, float(apart @ apart + spread - 2 * common))


def _root(table: np.ndarray) -> np.ndarray:
    """R with R^T R = C, the covariance: (min(N, D), D)."""
    return np.asarray(np.linalg.qr((table - table.mean(axis=0)) / math.sqrt(len(table) - 1), mode="r"))


def _without(table: np.ndarray, fold: int, folds: int) -> np.ndarray:
    return table[np.arange(len(table)) % folds != fold]


def _jackknife(left: np.ndarray) -> float:
    """Standard error from the estimates with each part left out in turn (Efron & Tibshirani 1993, eq. 11.5)."""
    return math.sqrt((len(left) - 1) * float(left.var()))


def _mmd(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float | None]:
    """Unbiased MMD^2 and its standard error (none for fewer than three pictures a set)."""
    within, across = [_row_sums(table, table) for table in (ours, theirs)], _row_sums(ours, theirs)
    inner = [sums[0] - _kernel((t * t).sum(1), t.shape[1]) for sums, t in zip(within, (ours, theirs), strict=True)]
    sizes, total = (len(ours), len(theirs)), float(across[0].sum())
    own = [float(rows.sum()) / (n * (n - 1)) for rows, n in zip(inner, sizes, strict=True)]
    value = own[0] + own[1] - 2 * total / (sizes[0] * sizes[1])
    if min(sizes) < 3:
        return value, None
    errors = []
    for rows, crossed, n, other in zip(inner, across, sizes, sizes[::-1], strict=True):
        left = (rows.sum() - 2 * rows) / ((n - 1) * (n - 2)) - 2 * (total - crossed) / ((n - 1) * other)
        errors.append(_jackknife(left))
    return value, math.hypot(*errors)


def _kernel(products: np.ndarray, width: int) -> np.ndarray:
    base = products / width + 1
    return base * base * base


def _row_sums(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the kernel matrix over its columns (N,) and over its rows (M,), a block at a time."""
    rows, columns = [], np.zeros(len(right))
    for start in range(0, len(left), BLOCK):
        block = _kernel(left[start : start + BLOCK] @ right.T, left.shape[1])
        rows.append(block.sum(axis=1))
        columns += block.sum(axis=0)
    return np.concatenate(rows), columns


def _entropy(table: np.ndarray) -> np.ndarray:
    """Of the last axis, in nats; 0 log 0 is 0."""
    return -(table * np.log(np.where(table > 0, table, 1))).sum(axis=-1)
