"""How nearly conditions are kept: edges within a pixel, levels, and what is defined where there is nothing."""

import numpy as np
import pytest

from tuner.evaluation.conditions import agreement, likeness, measured, near


def line(column: int, side: int = 16) -> np.ndarray:
    """One vertical line, one pixel wide."""
    made = np.zeros((side, side), np.uint8)
    made[:, column] = 255
    return made


def random_edges(seed: int, share: float, shape: tuple[int, int] = (12, 9)) -> np.ndarray:
    return 255 * (np.random.default_rng(seed).random(shape) < share).astype(np.uint8)


def slow(asked: np.ndarray, drawn: np.ndarray) -> tuple[float, float, float]:
    """The same by looking at every pair of pixels."""
    ours, theirs = np.argwhere(drawn > 0), np.argwhere(asked > 0)

    def found(these: np.ndarray, those: np.ndarray) -> float:
        if not len(these):
            return 1.0
        return float(np.mean([any(max(abs(y - v), abs(x - u)) <= 1 for v, u in those) for y, x in these]))

    precision, recall = found(ours, theirs), found(theirs, ours)
    both = precision + recall
    return (2 * precision * recall / both if both else 0.0), precision, recall


@pytest.mark.parametrize(("shift", "value"), [(0, 1.0), (1, 1.0), (-1, 1.0), (2, 0.0), (5, 0.0)])
def test_a_pixel_is_tolerated_and_two_are_not(shift: int, value: float) -> None:
    assert agreement(line(7), line(7 + shift)) == (value, value, value)
    assert agreement(line(7).T, line(7 + shift).T) == (value, value, value)


def test_a_corner_counts_as_near() -> None:
    one, other = np.zeros((2, 8, 8), np.uint8)
    one[3, 3], other[4, 4] = 255, 255
    assert agreement(one, other) == (1.0, 1.0, 1.0)
    assert near(one > 0).sum() == 9 and near(line(0) > 0).sum() == 2 * 16  # nothing wraps round


def test_what_is_too_much_and_what_is_missing() -> None:
    asked, more = line(3), line(3) | line(10)
    assert agreement(asked, more) == (pytest.approx(2 / 3), 0.5, 1.0)
    assert agreement(more, asked) == (pytest.approx(2 / 3), 1.0, 0.5)
    assert agreement(asked, np.full_like(asked, 255))[1:] == (3 / 16, 1.0)  # all white finds every edge


def test_maps_without_edges() -> None:
    none = np.zeros((16, 16), np.uint8)
    assert agreement(none, none) == (1.0, 1.0, 1.0)
    assert agreement(none, line(3)) == (0.0, 0.0, 1.0)
    assert agreement(line(3), none) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_as_by_looking_at_every_pair(seed: int) -> None:
    one, other = random_edges(seed, 0.02 + 0.02 * seed), random_edges(seed + 100, 0.08)
    assert agreement(one, other) == pytest.approx(slow(one, other))
    f1, precision, recall = agreement(other, one)
    assert (f1, recall, precision) == pytest.approx(agreement(one, other))  # turned round


def test_levels() -> None:
    ramp = np.tile(np.arange(0, 256, 17, dtype=np.uint8), (4, 1))
    assert likeness(ramp, ramp) == (pytest.approx(1), 0, 0)
    assert likeness(ramp, 255 - ramp)[0] == pytest.approx(-1)
    correlation, absolute, rmse = likeness(ramp, ramp // 2)
    assert correlation == pytest.approx(1, abs=1e-3)
    assert absolute == pytest.approx(0.25, abs=0.01) and rmse > absolute
    flat, darker = np.full((4, 4, 3), 200, np.uint8), np.full((4, 4, 3), 149, np.uint8)
    assert likeness(flat, darker) == (1.0, pytest.approx(0.2), pytest.approx(0.2))
    assert likeness(ramp, np.full_like(ramp, 77))[0] == 0


def test_black_and_white_are_edges_and_all_else_levels() -> None:
    assert list(measured([line(3)], [line(4)])) == ["F1", "precision", "recall"]
    gray = line(3) // 2
    found = measured([line(3), gray], [line(3), gray])
    assert found == {"correlation": pytest.approx([1, 1]), "absolute error": [0, 0], "RMSE": [0, 0]}
    colours = np.zeros((4, 4, 3), np.uint8)
    assert "RMSE" in measured([colours], [colours])
