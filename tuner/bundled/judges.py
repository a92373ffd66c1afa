"""The two bundled judges as their makers see them: how each is taught, examined and written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..adapters.artifact import Artifact
from ..evaluation import contrast as contrastive
from ..evaluation import judge as classifier
from . import contrast, exam
from . import judge as classes


@dataclass(frozen=True)
class Maker:
    """A judge's training and its file.

    Attributes:
        train: steps, seed and the file to go on from, as `keep`, to a trained judge.
        load: a file to a judge.
        about: what a judge is made from, in the file's header.
        weights: the bundled file.
        test: the first word of the exam's seeds.
        steps: how many it takes.
    """

    train: Callable[..., Any]
    load: Callable[[Path], Any]
    about: tuple[str, ...]
    weights: Path
    test: int
    steps: int


MAKERS = {
    "classifier": Maker(
        classes.train, classifier.Judge.load, classifier.ABOUT, classifier.WEIGHTS, classes.TEST, classes.STEPS
    ),
    "contrast": Maker(
        contrast.train, contrastive.ContrastiveJudge.load, contrastive.ABOUT, contrastive.WEIGHTS, contrast.TEST,
        contrast.STEPS,
    ),
}  # fmt: skip


def taught(which: str, file: Path, seed: int, steps: int, keep: Path) -> None:
    """Train a judge and write it in fp16, with what it is made from and its seed in the header.

    Args:
        steps: 0 takes the maker's own number.
        keep: the folder of what an interrupted training goes on from.
    """
    maker = MAKERS[which]
    steps = steps or maker.steps
    judge = maker.train(steps, seed, keep=keep / which)
    facts = {key: getattr(judge, key) for key in maker.about} | {"seed": seed, "steps": steps, "accuracy": {}}
    header = {key: json.dumps(value) for key, value in facts.items()}
    Artifact(judge.state_dict(), header).to(torch.float16).save(file)


def examined(which: str, file: Path, each: int = 60) -> exam.Accuracy:
    """Measure the judge in a file on unseen scenes, `each` a subject, and note it in the header."""
    maker = MAKERS[which]
    accuracy = exam.measure(maker.load(file), maker.test, each)
    whole = Artifact.load(file)
    Artifact(whole.tensors, {**whole.metadata, "accuracy": json.dumps(accuracy)}).save(file)
    return accuracy
