"""Distances between sets equal second implementations, closed forms and what is known by hand."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from tuner.errors import RequestError
from tuner.evaluation.coverage import precision_recall
from tuner.evaluation.distances import frechet, inception_score, kid, kid_subsets

Table = np.ndarray[Any, np.dtype[np.float64]]


def two_sets(count: int = 60, other: int = 45, width: int = 7) -> tuple[Table, Table]:
    random = np.random.default_rng(5)
    mix = random.normal(size=(width, width))
    return random.normal(size=(count, width)) @ mix, random.normal(0.4, 1.3, size=(other, width))


def naive_kid(ours: Table, theirs: Table) -> float:
    def kernel(x: Table, y: Table) -> float:
        return (sum(float(a * b) for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def within(table: Table) -> float:
        pairs = [kernel(x, y) for i, x in enumerate(table) for j, y in enumerate(table) if i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(x, y) for x in ours for y in theirs]
    return within(ours) + within(theirs) - 2 * sum(across) / len(across)


@pytest.mark.parametrize("sizes", [(60, 45), (5, 6), (200, 4)])  # the last two have singular covariances
def test_frechet_equals_the_matrix_square_root(sizes: tuple[int, int]) -> None:
    ours, theirs = two_sets(*sizes)
    first, second = np.cov(ours.T), np.cov(theirs.T)
    root = sqrtm(sqrtm(first) @ second @ sqrtm(first)).real
    wanted = ((ours.mean(0) - theirs.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    assert frechet(ours, theirs, "test").value == pytest.approx(wanted, rel=1e-6)
    assert frechet(theirs, ours, "test").value == pytest.approx(wanted, rel=1e-6)


def test_frechet_of_gaussians_is_the_closed_form() -> None:
    random = np.random.default_rng(1)
    deviations, shift = np.array([1.0, 2.0, 0.5, 3.0]), np.array([1.0, -2.0, 0.0, 0.5])
    ours, theirs = random.normal(size=(200_000, 4)), random.normal(size=(200_000, 4)) * deviations + shift
    wanted = (shift**2).sum() + ((deviations - 1) ** 2).sum()
    found = frechet(ours, theirs, "test")
    assert found.value == pytest.approx(wanted, rel=0.01) and found.warning == ""
    assert found.error is not None and abs(found.value - wanted) < 4 * found.error


@pytest.mark.parametrize("count", [20, 400])
def test_frechet_of_a_set_and_itself_is_zero(count: int) -> None:
    ours = two_sets(count, width=100)[0]
    assert frechet(ours, ours[::-1], "test").value == pytest.approx(0, abs=1e-9)
    moved = frechet(ours, ours + 0.5, "test").value
    assert moved == pytest.approx(100 * 0.25, rel=1e-9)


def test_the_error_of_frechet_is_its_spread_over_new_sets() -> None:
    random = np.random.default_rng(2)
    found = [frechet(random.normal(size=(400, 5)), random.normal(1, 2, size=(400, 5)), "test") for _ in range(40)]
    spread = np.std([figure.value for figure in found], ddof=1)
    assert np.mean([figure.error or 0 for figure in found]) == pytest.approx(spread, rel=0.4)


def test_few_pictures_are_warned_of() -> None:
    random = np.random.default_rng(3)
    many, few = random.normal(size=(2000, 3)), random.normal(size=(1999, 3))
    assert frechet(many, many, "Inception", 0).warning == "" and kid(many, many, "Inception").warning == ""
    told = frechet(many, few, "Inception", 0)
    assert (told.name, told.n, told.against) == ("FID", 2000, 1999) and "2,000" in told.warning
    assert frechet(few, few, "judge").name == "FD-judge" and "99" not in kid(few, few, "judge").warning
    assert kid(few[:99], few, "judge").warning and kid(few, few, "judge").name == "KID-judge"


def test_more_features_need_more_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.evaluation.distances.ENOUGH", 20)
    wide = np.random.default_rng(3).normal(size=(30, 40))
    assert frechet(wide[:, :30], wide[:, :30], "x").warning == "" and "40 pictures" in frechet(wide, wide, "x").warning


def test_kid_equals_double_loops() -> None:
    ours, theirs = two_sets(30, 25)
    assert kid(ours, theirs, "test").value == pytest.approx(naive_kid(ours, theirs), rel=1e-9)
    assert kid(ours[:2], theirs[:2], "test").value == pytest.approx(naive_kid(ours[:2], theirs[:2]), rel=1e-9)


def test_the_error_of_kid_is_the_jackknife_by_hand() -> None:
    ours, theirs = two_sets(12, 9)
    left = [naive_kid(np.delete(ours, i, 0), theirs) for i in range(12)]
    right = [naive_kid(ours, np.delete(theirs, i, 0)) for i in range(9)]
    wanted = math.hypot(math.sqrt(11 * np.var(left)), math.sqrt(8 * np.var(right)))
    assert kid(ours, theirs, "test").error == pytest.approx(wanted, rel=1e-9)
    assert kid(ours[:2], theirs, "test").error is None


def test_kid_of_halves_is_unbiased_and_within_its_error() -> None:
    random = np.random.default_rng(4)
    found = [kid(*np.split(random.normal(size=(160, 16)), 2), "test") for _ in range(200)]
    values, errors = np.array([f.value for f in found]), np.array([f.error for f in found])
    assert (np.abs(values) < 3 * errors).mean() > 0.98
    assert abs(values.mean()) < 3 * values.std(ddof=1) / math.sqrt(len(values))
    assert values.min() < 0 and 0.9 < np.mean(errors) / values.std() < 1.8  # careful, not useless


def test_kid_in_blocks_and_of_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = two_sets(230, 190)
    whole = kid(ours, theirs, "test")
    monkeypatch.setattr("tuner.evaluation.distances.BLOCK", 32)
    blocked = kid(ours, theirs, "test")
    assert (blocked.value, blocked.error) == (pytest.approx(whole.value), pytest.approx(whole.error))
    usual = kid_subsets(ours, theirs, "Inception", subsets=200, size=60)
    assert usual.name == "KID, mean of 200 subsets of 60" and usual.error is not None
    assert abs(usual.value - whole.value) < 4 * usual.error
    assert usual == kid_subsets(ours, theirs, "Inception", subsets=200, size=60)
    assert "subsets of 95" in kid_subsets(ours, theirs, "test").name  # at most half of the smaller set


def test_inception_score_equals_loops_and_its_limits() -> None:
    table = np.random.default_rng(6).dirichlet(np.full(5, 0.3), 40)
    table[0] = [1, 0, 0, 0, 0]
    order = np.random.default_rng(0).permutation(40)
    scores = []
    for part in np.array_split(table[order], 4):
        middle = part.mean(axis=0)
        inner = [sum(p * math.log(p / m) for p, m in zip(row, middle, strict=True) if p > 0) for row in part]
        scores.append(math.exp(sum(inner) / len(inner)))
    found = inception_score(table, "Inception", splits=4)
    assert found.value == pytest.approx(np.mean(scores), rel=1e-9) and found.name == "IS" and found.warning
    assert found.error == pytest.approx(np.std(scores, ddof=1) / 2, rel=1e-9)
    assert inception_score(np.full((50, 8), 1 / 8), "x").value == pytest.approx(1)
    assert inception_score(np.tile(np.eye(8), (10, 1)), "x", splits=1).value == pytest.approx(8)


def test_precision_and_recall_of_sets_made_by_hand() -> None:
    line = np.arange(10.0)[:, None]  # every reach is 3, or 2 inside
    far = np.concatenate([line[:5], line[:5] + 1000])
    precision, recall = precision_recall(far, line, "test")
    assert (precision.value, precision.n, precision.against) == (0.5, 10, 10)
    assert (precision.low, precision.high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert recall.value == 0.8  # 4 reaches 7, its third neighbour being 1 (or 2: ties); 8 and 9 are out of reach
    narrow = 4 + line[:4] / 1000  # one place of many: all are right, and they cover little
    precision, recall = precision_recall(narrow, line, "test")
    assert precision.value == 1 and recall.value == 0.1
    assert [f.value for f in precision_recall(line, line, "test")] == [1, 1]


def test_precision_and_recall_of_copies() -> None:
    copies = np.random.default_rng(8).normal(100, 1, size=(6, 40)).repeat(5, axis=0)  # every reach is zero
    assert [f.value for f in precision_recall(copies, copies[::-1], "test")] == [1, 1]
    assert [f.value for f in precision_recall(copies + 1e-3, copies, "test")] == [0, 0]


def test_precision_and_recall_equal_loops_over_all_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = two_sets(80, 70)
    monkeypatch.setattr("tuner.evaluation.coverage.BLOCK", 17)

    def covered(points: Table, centres: Table) -> float:
        reach = np.sort(cdist(centres, centres), axis=1)[:, 3]
        hits = [any(math.dist(p, c) <= r for c, r in zip(centres, reach, strict=True)) for p in points]
        return sum(hits) / len(hits)

    wanted = [covered(ours, theirs), covered(theirs, ours)]
    assert [f.value for f in precision_recall(ours, theirs, "test")] == wanted
    assert min(wanted) > 0 and max(wanted) < 1


GOOD = np.random.default_rng(9).normal(size=(20, 4))
BAD = np.where(np.arange(80).reshape(20, 4) == 9, np.nan, GOOD)


@pytest.mark.parametrize("measure", [frechet, kid, kid_subsets, precision_recall])
@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (GOOD[:1], "too small"), (GOOD[:0], "too small"), (GOOD[:, :3], "one network"), (BAD, "of 1 of 20 pictures"),
        (GOOD * np.inf, "not finite"), (GOOD[0], "(N, D)"),
    ],
)  # fmt: skip
def test_bad_features_are_refused_in_a_sentence(measure: Any, ours: Table, words: str) -> None:
    for pair in ((ours, GOOD), (GOOD, ours)):
        with pytest.raises(RequestError) as caught:
            measure(*pair, "test")
        assert words in str(caught.value) and str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_bad_probabilities_are_refused() -> None:
    even = np.full((5, 4), 0.25)
    for table, splits, words in ((even, 6, "give more"), (even * 2, 2, "sum to 1"), (even[:0], 1, "too small")):
        with pytest.raises(RequestError, match=words):
            inception_score(table, "test", splits)
