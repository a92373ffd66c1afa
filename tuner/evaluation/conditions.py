"""How nearly a picture has the condition that it was drawn after: both maps are computed by the same extractor.

Edges are counted as boundary benchmarks count them (Martin, Fowlkes, Malik 2004, IEEE TPAMI 26): precision, recall and
their harmonic mean F1, where an edge is right within a tolerance. Those benchmarks pair edge pixels one to one. Here
each map is widened by the tolerance instead, so that one pixel may stand for several: the usual simplification, which
never gives less. Maps of levels are compared pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .lines import Direction

TOLERANCE = 1  # pixel, along the diagonal too

BETTER: Mapping[str, Direction] = {
    "F1": "higher", "precision": "higher", "recall": "higher", "correlation": "higher", "absolute error": "lower",
    "RMSE": "lower",
}  # fmt: skip
ABOUT: Mapping[str, str] = {
    "F1": "Harmonic mean of precision and recall, picture by picture.",
    "precision": f"Share of the drawn edges that lie within {TOLERANCE} pixel of one that was asked for.",
    "recall": f"Share of the edges that were asked for within {TOLERANCE} pixel of which one is drawn.",
    "correlation": "Pearson's, of the pixels that were asked for and those of the drawn picture's condition.",
    "absolute error": "The mean over pixels, from 0 to 1, of what was asked for less what is drawn.",
    "RMSE": "The root of the mean square of the same.",
}  # in the order in which they are told
EDGES, LEVELS = ("F1", "precision", "recall"), ("correlation", "absolute error", "RMSE")


def measured(asked: Sequence[np.ndarray], drawn: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """By name, a value for each pair of maps: uint8, (H, W) or (H, W, 3).

    Where all that is asked for is black or white they are edges, else levels.
    """
    edges = all(one.ndim == 2 and np.isin(one, (0, 255)).all() for one in asked)
    names, compare = (EDGES, agreement) if edges else (LEVELS, likeness)
    rows = [compare(one, other) for one, other in zip(asked, drawn, strict=True)]
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def agreement(asked: np.ndarray, drawn: np.ndarray) -> tuple[float, float, float]:
    """F1, precision and recall of edges, which are white. Where there are none, none is wrong: 1."""
    asked, drawn = asked > 127, drawn > 127
    precision = float(near(asked)[drawn].mean()) if drawn.any() else 1.0
    recall = float(near(drawn)[asked].mean()) if asked.any() else 1.0
    both = precision + recall
    return (2 * precision * recall / both if both else 0.0), precision, recall


def near(edges: np.ndarray, reach: int = TOLERANCE) -> np.ndarray:
    """What lies within so many pixels of an edge, in each direction: booleans (H, W)."""
    high, wide = edges.shape
    padded = np.pad(edges, reach)
    steps = range(2 * reach + 1)
    return np.any([padded[y : y + high, x : x + wide] for y in steps for x in steps], axis=0)


def likeness(asked: np.ndarray, drawn: np.ndarray) -> tuple[float, float, float]:
    """Correlation, mean absolute error and RMSE of levels, of which white is 1.

    Where one of the two is the same all over, only another such is like it: correlation 1, else 0.
    """
    flat = [bool(map_.min() == map_.max()) for map_ in (asked, drawn)]
    one, other = asked / 255.0, drawn / 255.0
    alike = float(all(flat)) if any(flat) else float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
    return alike, float(np.abs(one - other).mean()), float(np.sqrt(np.square(one - other).mean()))
