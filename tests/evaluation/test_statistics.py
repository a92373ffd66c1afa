"""Intervals hold what they promise, groups widen them, and every figure says how many pictures it is from."""

import json
import math

import numpy as np
import pytest

from tuner.errors import RequestError
from tuner.evaluation.statistics import Figure, difference, mean, share, wilson


def test_mean_and_interval_of_independent_values() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    figure = mean(values, "CLIP score")
    assert figure.value == pytest.approx(values.mean()) and (figure.n, figure.groups) == (400, None)
    half = 1.96 * values.std(ddof=1) / 20
    assert figure.low == pytest.approx(values.mean() - half, abs=0.04)
    assert figure.high == pytest.approx(values.mean() + half, abs=0.04)
    assert figure == mean(values, "CLIP score") != mean(values, "CLIP score", seed=1)


def test_the_cluster_bootstrap_equals_drawing_groups_in_a_loop() -> None:
    random = np.random.default_rng(2)
    groups = [f"prompt {i}" for i in range(15) for _ in range(1 + i % 4)]
    values = random.normal(size=len(groups)) + np.array([int(g.split()[1]) % 5 for g in groups])
    members = [values[[g == f"prompt {i}" for g in groups]] for i in range(15)]
    drawn = [np.concatenate([members[i] for i in random.integers(15, size=15)]).mean() for _ in range(4000)]
    figure = mean(values, "x", groups)
    assert (figure.value, figure.groups, figure.n) == (pytest.approx(values.mean()), 15, len(groups))
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert (figure.low, figure.high) == (pytest.approx(low, abs=0.06), pytest.approx(high, abs=0.06))


def test_intervals_over_groups_hold_the_truth_where_plain_ones_do_not() -> None:
    random, held, plain = np.random.default_rng(3), [], []
    groups = list(np.repeat(np.arange(40), 10))
    for _ in range(200):
        values = random.normal(size=40).repeat(10) + 0.3 * random.normal(size=400)
        for kept, which in ((held, groups), (plain, None)):
            figure = mean(values, "x", which)
            assert figure.low is not None and figure.high is not None
            kept.append(figure.low <= 0 <= figure.high)
    assert np.mean(held) > 0.9 and np.mean(plain) < 0.7


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(size=50)
    whole = mean(values, "x")
    monkeypatch.setattr("tuner.evaluation.statistics.CHUNK", 999)
    assert mean(values, "x") == whole


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)],
)  # the last two: Newcombe 1998, table I, method 3
def test_wilson(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson(hits, trials) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


def test_shares() -> None:
    plain = share([True] * 30 + [False] * 10, "accuracy")
    assert (plain.value, plain.n, plain.unit) == (0.75, 40, "share") and (plain.low, plain.high) == wilson(30, 40)
    groups = list(np.repeat(np.arange(10), 4))
    clustered = share([True] * 30 + [False] * 10, "accuracy", groups)
    assert clustered.groups == 10 and clustered.low is not None and plain.low is not None
    assert clustered.low < plain.low
    all_hit = share([True] * 40, "accuracy", groups)
    assert (all_hit.value, all_hit.low, all_hit.high) == (1, *wilson(10, 10))


def test_differences_are_paired() -> None:
    before = np.random.default_rng(5).normal(0, 10, 60)
    figure = difference(before, before + 1, "gain")
    assert (figure.value, figure.low, figure.high, figure.n) == (pytest.approx(1),) * 3 + (60,)
    worse = difference(before, before - 1, "gain", list(np.arange(60) // 3))
    assert worse.high is not None and worse.high < 0 and worse.groups == 20


def test_a_figure_in_words_and_in_json() -> None:
    figure = Figure("PSNR", 31.25, 12, 30.5, 32.0, groups=3, unit="dB")
    assert str(figure) == "PSNR 31.25 dB (30.5 to 32), n = 12, 3 groups"
    assert str(Figure("FID", 9.5, 100, error=0.25, against=200)) == "FID 9.5 ± 0.25, n = 100 against 200"
    told = {"name": "PSNR", "value": 31.25, "n": 12, "low": 30.5, "high": 32.0, "groups": 3, "unit": "dB"}
    assert json.loads(json.dumps(figure.json())) == told


def test_what_has_no_interval_says_why() -> None:
    endless = mean([30.0, math.inf], "PSNR", unit="dB")
    assert math.isinf(endless.value) and endless.low is None and "infinite" in endless.warning
    assert endless.json()["value"] is None
    one = mean([1.0, 3.0], "x", ["a", "a"])
    assert (one.value, one.low, one.groups) == (2, None, 1) and "one group" in one.warning
    assert "too narrow" in mean(np.arange(9.0), "x").warning and not mean(np.arange(10.0), "x").warning


def test_bad_input_is_refused_in_a_sentence() -> None:
    requests = [
        (lambda: mean([], "score"), "at least one"),
        (lambda: mean([1, math.nan], "score"), "1 of 2 values"),
        (lambda: mean([1, 2], "score", ["a"]), "1 groups for 2"),
        (lambda: share([], "score"), "at least one"),
        (lambda: difference([1, 2], [1], "score"), "not pairs"),
        (lambda: difference([1, math.inf], [1, 2], "score"), "infinite"),
        (lambda: wilson(0, 0), "trials"),
    ]
    for request, words in requests:
        with pytest.raises(RequestError, match=words) as caught:
            request()
        assert str(caught.value).endswith(".") or "NaN" in str(caught.value)
