"""The panel: both judges must be right, and what either cannot tell on real scenes takes no part."""

import numpy as np
import pytest
import torch
from PIL import Image

from tuner.bundled import contrast, world
from tuner.bundled import judge as classifier
from tuner.evaluation.features import collect
from tuner.evaluation.judge import REFERENCE_SEED
from tuner.evaluation.panel import KINDS, Panel, excluded, trusted
from tuner.evaluation.relations import Related

ONE = {"subject": {"cat": 0.99, "dog": 0.95, "owl": 0.9}, "background": {"red": 1.0}, "style": {"neon": 0.5}}
OTHER = {"subject": {"cat": 0.97, "dog": 0.94, "owl": 1.0}, "background": {"red": 0.96}, "style": {"neon": 1.0}}


@pytest.fixture(scope="module")
def panel() -> Panel:
    return Panel.load()


def scene(subject: str, background: str = "blue", **more: str) -> Image.Image:
    return world.draw(world.Scene(subject, background, **more))


def test_trusted_where_both_are_right_in_19_of_20() -> None:
    assert trusted(ONE, OTHER, "subject") == ("cat",)
    assert trusted(ONE, OTHER, "background") == ("red",) and trusted(ONE, OTHER, "style") == ()
    assert trusted(ONE, {"subject": {"dog": 1.0}}, "subject") == ("dog",)


def test_excluded_with_both_accuracies() -> None:
    assert excluded(ONE, OTHER) == {
        "subject": {"dog": (0.95, 0.94), "owl": (0.9, 1.0)}, "background": {}, "style": {"neon": (0.5, 1.0)}
    }  # fmt: skip


def test_at_most_a_tenth_of_each_kind_is_left_out(panel: Panel) -> None:
    for kind in KINDS:
        out, kept = panel.excluded()[kind], panel.trusted(kind)
        assert not set(out) & set(kept)
        assert len(out) <= 0.1 * (len(out) + len(kept)), (kind, out)


def test_the_judges_share_no_seeds() -> None:
    seeds = [classifier.TRAIN, classifier.TEST, REFERENCE_SEED, contrast.TRAIN, contrast.TEST]
    assert len(set(seeds)) == len(seeds)


def test_right_only_where_both_are(panel: Panel) -> None:
    images = [scene("dog"), scene("rocket", "red")]
    assert panel.right(images, "subject", ["dog", "rocket"]) == [True, True]
    assert panel.right(images, "subject", ["dog", "dog"]) == [True, False]
    assert panel.right(images, "background", ["red", "red"]) == [False, True]
    assert [[said.style for said in both] for both in panel.judge(images)] == [["plain", "plain"]] * 2


def test_relations_by_both(panel: Panel) -> None:
    image = scene("dog", relation="left of", other="car")
    asked = [Related("dog", "left of", "car"), Related("car", "right of", "dog"), Related("car", "left of", "dog")]
    assert panel.relation_right([image] * 3, asked) == [True, True, False]


def test_agreement_prefers_the_true_caption(panel: Panel) -> None:
    values = panel.agreement([scene("dog")] * 2, ["a dog on a blue background", "a cat on a red background"])
    assert values.dtype == np.float64 and values.shape == (2,) and values[0] > values[1]


def test_the_networks_tell_subjects_apart_whatever_is_behind_them(panel: Panel) -> None:
    images = [scene("rocket", "red"), scene("rocket", "cyan"), scene("dog", "red")]
    for network in panel.networks:
        features = collect(network, images)
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-4)
        assert features[0] @ features[1] > features[0] @ features[2] + 0.1
        shares = network.probabilities(torch.zeros(1, 3, 64, 64))
        assert shares.shape == (1, 157) and float(shares.sum()) == pytest.approx(1, abs=1e-4)
    assert len({network.name for network in panel.networks}) == 2
