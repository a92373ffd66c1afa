"""What suites draw with: benches that share their pictures before."""

import numpy as np

from tuner.commands.show import Silent
from tuner.config import build
from tuner.evaluation.bench import Bench, Judged
from tuner.evaluation.request import Config


def test_benches_of_one_base_draw_a_picture_before_once(tiny_base):
    config, shared = build(Config, {"steps": 2, "count": 2}), {}
    one, other = (Bench("prompts", Judged(name, tiny_base), config, Silent(), shared) for name in ("one", "other"))
    first = one.before(one.shots(["a dog", "a cat"]))
    second = other.before(other.shots(["a cat", "a fox"]))
    assert [again is once for again, once in zip(second[:2], first[2:], strict=True)] == [True, True]
    assert len(shared) == 6
    alone = Bench("prompts", Judged("alone", tiny_base), config, Silent())
    for drawn, fresh in zip(second, alone.before(alone.shots(["a cat", "a fox"])), strict=True):
        assert np.abs(np.asarray(drawn).astype(int) - np.asarray(fresh).astype(int)).max() <= 1
    assert np.asarray(second[1]).tolist() != np.asarray(second[3]).tolist()
