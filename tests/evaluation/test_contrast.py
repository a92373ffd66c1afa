"""The contrastive judge on real scenes that it never saw: classes, captions, false captions, unknown words."""

import json

import pytest
import torch
from PIL import Image

from tuner.adapters.artifact import Artifact
from tuner.bundled import emoji, world
from tuner.evaluation.contrast import WEIGHTS, ContrastiveJudge, vocabulary, words_of
from tuner.evaluation.relations import OPPOSITE, Related, halves, moved, relation_text

SCENES = (
    world.Scene("dog", "blue", grain=1),
    world.Scene("rocket", "red", "mosaic", grain=2),
    world.Scene("owl", "", "pencil sketch", grain=3),
    world.Scene("pizza", "green", "pixel art", grain=4, texture="striped"),
    world.Scene("house", "white", "neon", grain=5),
    world.Scene("teapot", "yellow", grain=6),
    world.Scene("guitar", "gray", "comic", grain=7),
    world.Scene("key", "pink", "watercolor", grain=8),
)
PAIRS = (
    world.Scene("dog", "blue", relation="left of", other="car", grain=1),
    world.Scene("tree", "white", relation="below", other="robot", grain=2),
    world.Scene("apple", "gray", relation="right of", other="penguin", grain=3),
    world.Scene("sun", "green", relation="above", other="house", grain=4),
)


@pytest.fixture(scope="module")
def judge() -> ContrastiveJudge:
    return ContrastiveJudge.load()


def drawn(scenes: tuple[world.Scene, ...]) -> list[Image.Image]:
    return [world.draw(it) for it in scenes]


def asked(scenes: tuple[world.Scene, ...]) -> list[Related]:
    return [Related(it.subject, it.relation, it.other) for it in scenes]


def test_the_file_is_small_and_says_what_it_holds(judge: ContrastiveJudge) -> None:
    assert WEIGHTS.stat().st_size <= 2.6e6
    file = Artifact.load(WEIGHTS)
    assert {tensor.dtype for tensor in file.tensors.values()} == {torch.float16}
    assert judge.subjects == emoji.KNOWN + emoji.HELD_OUT
    assert (judge.backgrounds, judge.styles) == (tuple(world.COLOURS), world.STYLES)
    assert {"subject", "background", "style", "count", "relation"} <= set(json.loads(file.metadata["accuracy"]))


def test_names_what_it_sees(judge: ContrastiveJudge) -> None:
    opinions = judge.judge(drawn(SCENES))
    assert [o.subject for o in opinions] == [it.subject for it in SCENES]
    assert [o.style for o in opinions] == [it.style for it in SCENES]
    grounds = [(o.background, it.background) for o, it in zip(opinions, SCENES, strict=True) if it.background]
    assert all(seen == true for seen, true in grounds)
    assert all(0 < o.subject_confidence <= 1.0001 for o in opinions) and judge.judge([]) == []


def test_each_picture_agrees_best_with_its_own_caption(judge: ContrastiveJudge) -> None:
    images, captions = drawn(SCENES), [world.caption(it) for it in SCENES]
    likeness = judge.likeness(images, captions)
    assert likeness.argmax(dim=1).tolist() == list(range(len(SCENES)))
    torch.testing.assert_close(judge.agrees(images, captions), likeness.diagonal())
    turned = captions[1:] + captions[:1]
    assert judge.prefers(images, captions, turned).all() and not judge.prefers(images, turned, captions).any()


def test_a_swapped_relation_loses(judge: ContrastiveJudge) -> None:
    images, right = drawn(PAIRS), asked(PAIRS)
    wrong = [it._replace(relation=OPPOSITE[it.relation]) for it in right]
    assert all(judge.relation_right(images, right))
    assert not any(judge.relation_right(images, wrong))
    assert not any(judge.relation_right(images, [moved(it)[0] for it in right]))
    assert not any(judge.relation_right(images, [it._replace(first="moon") for it in right]))


def test_says_which_words_it_does_not_know(judge: ContrastiveJudge) -> None:
    assert judge.reads("A Dog, left of the car: on an orange background!") == []
    assert judge.reads("a zorgon on a glark, on a zorgon") == ["zorgon", "glark"]
    for it in (*SCENES, *PAIRS):
        assert judge.reads(world.caption(it)) == []
    assert judge.agrees(drawn(SCENES[:1]), [""]).isfinite().all()


def test_batches_and_long_texts_change_nothing(judge: ContrastiveJudge) -> None:
    text = "a dog on a blue background"
    alone, beside = judge.texts([text])[0], judge.texts([text, "a " * 50 + "dog"])[0]
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=1e-4)


def test_words() -> None:
    assert words_of("A T-Rex’s photo, (large)") == ["a", "t", "rexs", "photo", "large"]
    assert vocabulary(["b a", "a c"]) == ["a", "b", "c"]


def test_a_pair_along_the_other_axis() -> None:
    it = Related("dog", "left of", "car")
    assert moved(it) == [it._replace(relation="above"), it._replace(relation="below")]
    assert [moved(one)[0].relation for one in moved(it)] == ["left of", "left of"]
    assert relation_text(it) == "a dog left of a car"


@pytest.mark.parametrize("relation", OPPOSITE)
def test_the_halves_come_in_the_order_that_is_asked(relation: str) -> None:
    picture = torch.full((1, 3, 64, 64), -1.0)
    lit = {"left of": (..., slice(0, 32)), "right of": (..., slice(32, 64))}
    lit |= {"above": (..., slice(0, 32), slice(None)), "below": (..., slice(32, 64), slice(None))}
    picture[lit[relation]] = 1.0
    found = halves(picture, relation)
    assert found.shape == (1, 2, 3, 64, 64)
    assert found[0, 0].min() == 1.0 and found[0, 1].max() == -1.0
