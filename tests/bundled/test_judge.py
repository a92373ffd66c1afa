"""The bundled judge is right on real scenes that it never saw, and says how sure it is."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from tuner.adapters.artifact import Artifact
from tuner.bundled import emoji, world
from tuner.evaluation.judge import WEIGHTS, Judge, Opinion, pixels
from tuner.evaluation.relations import Related

SEED = 7009  # used by nothing else
ALL = emoji.KNOWN + emoji.HELD_OUT


def scenes(count: int, subjects: tuple[str, ...] = ALL, styles: tuple[str, ...] = ("plain",)) -> list[world.Scene]:
    """`count` scenes, the subjects in turn."""
    rngs = [np.random.default_rng((SEED, i)) for i in range(count)]
    return [world.scene(rng, (subjects[i % len(subjects)],), styles=styles) for i, rng in enumerate(rngs)]


def drawn(these: list[world.Scene]) -> list[Image.Image]:
    return [world.draw(it) for it in these]


def share_right(opinions: list[Opinion], these: list[world.Scene], what: str) -> float:
    return float(np.mean([getattr(o, what) == getattr(it, what) for o, it in zip(opinions, these, strict=True)]))


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


def test_the_file_is_small_and_says_what_it_holds(judge: Judge) -> None:
    assert WEIGHTS.stat().st_size <= 3 * 2**20
    file = Artifact.load(WEIGHTS)
    assert {tensor.dtype for tensor in file.tensors.values()} == {torch.float16}
    accuracy = json.loads(file.metadata["accuracy"])
    assert judge.accuracy == accuracy and set(accuracy["subject"]) == set(ALL)
    assert all(np.mean(list(accuracy[kind].values())) >= 0.97 for kind in ("subject", "background", "style"))
    assert (judge.subjects, judge.backgrounds, judge.styles) == (ALL, tuple(world.COLOURS), world.STYLES)


def test_right_on_unseen_plain_scenes(judge: Judge) -> None:
    these = scenes(300)
    opinions = judge.judge(drawn(these))
    assert min(share_right(opinions, these, what) for what in ("subject", "background", "style")) >= 0.97


def test_right_in_every_style(judge: Judge) -> None:
    these = scenes(200, styles=world.STYLES[1:])
    opinions = judge.judge(drawn(these))
    assert min(share_right(opinions, these, what) for what in ("subject", "style")) >= 0.95


def test_the_cats_are_told_apart_even_when_soft(judge: Judge) -> None:
    these = scenes(66, emoji.CATS)
    soft = [picture.filter(ImageFilter.GaussianBlur(0.7)) for picture in drawn(these)]
    assert share_right(judge.judge(soft), these, "subject") >= 0.95


def test_counts_one_to_three(judge: Judge) -> None:
    these = [replace(it, count=1 + i % 3) for i, it in enumerate(scenes(30))]
    opinions = judge.judge(drawn(these))
    assert share_right(opinions, these, "count") >= 0.9


def test_one_beside_another(judge: Judge) -> None:
    these = [world.Scene("dog", "blue", relation="left of", other="car", grain=i) for i in range(4)]
    right, turned = Related("dog", "left of", "car"), Related("car", "left of", "dog")
    assert sum(judge.relation_right(drawn(these), [right] * 4)) >= 3
    assert not any(judge.relation_right(drawn(these), [turned] * 4))
    assert judge.related(drawn(these[:1]), [right._replace(relation="right of")]) == [["car", "dog"]]
    assert judge.related([], []) == []


def test_confidences_are_probabilities(judge: Judge) -> None:
    images = drawn(scenes(8))
    verdict = judge(pixels(images))
    for logits in (verdict.subject, verdict.background, verdict.style, verdict.count):
        torch.testing.assert_close(logits.softmax(1).sum(1), torch.ones(8))
    for row, opinion in zip(verdict.subject.softmax(1), judge.judge(images), strict=True):
        assert opinion.subject_confidence == pytest.approx(row.max().item(), abs=1e-5)


def test_not_sure_of_what_shows_nothing(judge: Judge) -> None:
    noise = np.random.default_rng(SEED).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    empty = [Image.new("RGB", (64, 64), colour) for colour in world.COLOURS.values()]
    unsure = [o.subject_confidence for o in judge.judge([*map(Image.fromarray, noise), *empty])]
    sure = [o.subject_confidence for o in judge.judge(drawn(scenes(len(ALL))))]
    assert max(unsure) < 0.4 and np.mean(unsure) < 0.1 < 0.8 < np.mean(sure)


def test_features_are_normalised_and_ignore_the_background(judge: Judge) -> None:
    one, other = world.Scene("rocket", "red"), world.Scene("rocket", "cyan", tilt=8)
    features = judge.features(pixels(drawn([one, other, world.Scene("dog", "red")])))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    assert features[0] @ features[1] > 0.85 > 0.75 > features[0] @ features[2]


def test_held_out_subjects_are_nearest_to_their_own_references(judge: Judge) -> None:
    these = scenes(54, emoji.HELD_OUT)
    found = judge.recognise(drawn(these))
    assert np.mean([f.subject == it.subject for f, it in zip(found, these, strict=True)]) >= 0.97
    assert judge.world_references is judge.world_references


def test_references_of_ones_own(judge: Judge) -> None:
    mine = {name: drawn(scenes(3, (name,))) for name in ("dog", "tiger")}
    found = judge.recognise([world.draw(world.Scene("tiger", "white"))], judge.references(mine))
    assert found[0].subject == "tiger" and 0.7 < found[0].similarity <= 1.0001


def test_any_size_and_no_pictures(judge: Judge) -> None:
    assert judge.judge([]) == [] and judge.recognise([]) == []
    big = world.draw(world.Scene("car", "yellow"), 128)
    assert judge.judge([big])[0].subject == "car"
