"""The judges' exam, and the scenes that they are taught on."""

from collections.abc import Sequence

import pytest
import torch
from PIL import Image

from tuner.bundled import exam, lessons, world
from tuner.bundled.soften import soften
from tuner.evaluation.judge import Opinion
from tuner.evaluation.relations import Related
from tuner.randomness import generator


class Blind:
    """Sees a plain dog on blue everywhere."""

    def judge(self, images: Sequence[Image.Image]) -> list[Opinion]:
        return [Opinion("dog", "blue", "plain", 1, 1.0, 1.0, 1.0, 1.0)] * len(images)

    def relation_right(self, images: Sequence[Image.Image], asked: Sequence[Related]) -> list[bool]:
        return [it.first == "dog" for it in asked]


def test_the_shares_are_those_of_each_concept() -> None:
    accuracy = exam.measure(Blind(), 7209, each=6, subjects=("dog", "key"))
    assert accuracy["subject"] == {"dog": 1.0, "key": 0.0}
    assert accuracy["style"]["plain"] == 1.0 and set(accuracy["background"]) <= set(world.COLOURS)
    assert accuracy["count"]["1"] == 1.0 and max(accuracy["count"].get("2", 0), accuracy["count"].get("3", 0)) == 0
    assert sum(accuracy["relation"].values()) / len(accuracy["relation"]) == pytest.approx(0.5, abs=0.3)
    text = exam.table({"blind": accuracy | {"subject": {"cat": 0.9, "dog": 1.0}}})
    assert "1 of 2   cat 90.0, dog 100.0" in text


def test_scenes_depend_on_their_seed_alone() -> None:
    assert list(exam.singles(1, 2, ("dog",))) == list(exam.singles(1, 2, ("dog",)))
    assert list(lessons.lessons(1, 1, 5)) == list(lessons.lessons(1, 1, 9))[:5]
    kinds = {world.kind(it) for it in lessons.lessons(1, 1, 60)}
    assert kinds == {"single", "sized", "counted", "related"}


def test_fixed_pictures_are_not_mirrored() -> None:
    picture = torch.full((40, 3, 64, 64), -1.0)
    picture[..., :32] = 1.0
    soft, ruined = soften(picture, generator("fixed"), torch.ones(40, dtype=torch.bool))
    brighter = soft[..., :32].mean(dim=(1, 2, 3)) > soft[..., 32:].mean(dim=(1, 2, 3))
    assert brighter[~ruined].all()
