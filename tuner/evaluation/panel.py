"""The bundled judges together: a figure counts a picture as right only where both say so.

They differ in architecture, in what they were taught and in every seed, so that what deceives one need not deceive the
other. What either is often wrong about on real scenes takes no part in figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .contrast import ContrastiveJudge
from .features import Features, JudgeFeatures, images
from .judge import Judge, Opinion, pixels
from .relations import Related

TRUST = 0.95  # share of real unseen scenes on which each of the judges must be right
KINDS = ("subject", "background", "style")
Accuracies = Mapping[str, Mapping[str, float]]  # kind -> concept -> share of right answers


def trusted(one: Accuracies, other: Accuracies, kind: str) -> tuple[str, ...]:
    """The concepts of a kind on which both judges are right often enough, in the first one's order."""
    return tuple(name for name in one[kind] if min(one[kind][name], other[kind].get(name, 0.0)) >= TRUST)


def excluded(one: Accuracies, other: Accuracies) -> dict[str, dict[str, tuple[float, float]]]:
    """Kind -> concept that is not trusted -> the two shares; 0 where a judge was never asked."""
    return {
        kind: {
            name: (one[kind].get(name, 0.0), other[kind].get(name, 0.0))
            for name in dict.fromkeys((*one[kind], *other[kind]))
            if name not in trusted(one, other, kind)
        }
        for kind in KINDS
    }


class ContrastFeatures:
    """The contrastive judge's, without what its texts of backgrounds, styles and counts lie along: D = 160."""

    name = "contrast"

    def __init__(self, judge: ContrastiveJudge) -> None:
        self.judge = judge

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        seen = self._seen(pictures)
        return functional.normalize(seen - seen @ self._aside.T @ self._aside, dim=1)

    @torch.no_grad()
    def probabilities(self, pictures: Tensor) -> Tensor:
        """Of its subjects."""
        return self.judge.logits(self._seen(pictures))[0].softmax(dim=1)

    @cached_property
    def _aside(self) -> Tensor:
        """Orthonormal rows (R, D) that span the differences between texts of a kind."""
        kinds = [self.judge.texts(texts) for texts in self.judge.class_texts()[1:]]
        apart = torch.cat([kind - kind.mean(dim=0) for kind in kinds])
        _, sizes, rows = torch.linalg.svd(apart, full_matrices=False)
        return rows[sizes > 1e-3 * sizes[0]]

    def _seen(self, pictures: Tensor) -> Tensor:
        return self.judge.features(pixels(images(pictures)).to(self.judge.places.device))


@dataclass(frozen=True)
class Panel:
    """The two judges."""

    classifier: Judge
    contrast: ContrastiveJudge

    @classmethod
    def load(cls) -> Panel:
        """The bundled ones.

        Raises:
            RequestError: a file is not there or is not whole.
        """
        return cls(Judge.load(), ContrastiveJudge.load())

    @property
    def networks(self) -> list[Features]:
        """In whose features pictures are compared."""
        return [JudgeFeatures(self.classifier), ContrastFeatures(self.contrast)]

    def judge(self, images: Sequence[Image.Image]) -> list[tuple[Opinion, Opinion]]:
        """Both opinions of each picture."""
        return list(zip(self.classifier.judge(images), self.contrast.judge(images), strict=True))

    def right(self, images: Sequence[Image.Image], aspect: str, names: Sequence[str | int]) -> list[bool]:
        """Whether both see the name in each picture. The aspect is a field of `Opinion`: subject, background..."""
        opinions = zip(self.judge(images), names, strict=True)
        return [all(getattr(said, aspect) == name for said in both) for both, name in opinions]

    def relation_right(self, images: Sequence[Image.Image], asked: Sequence[Related]) -> list[bool]:
        """Whether both find the first subject where it was asked for, and the second beside it."""
        answers = (judge.relation_right(images, asked) for judge in (self.classifier, self.contrast))
        return [one and other for one, other in zip(*answers, strict=True)]

    def agreement(self, images: Sequence[Image.Image], texts: Sequence[str]) -> np.ndarray:
        """Cosines of each picture with its own text, float64 (N,): by the contrastive judge alone."""
        return self.contrast.agrees(images, texts).double().cpu().numpy()

    def trusted(self, kind: str) -> tuple[str, ...]:
        """The subjects, backgrounds or styles that take part in figures."""
        return trusted(self.classifier.accuracy, self.contrast.accuracy, kind)

    def excluded(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Those that do not, with the accuracies of the classifier and of the contrastive judge."""
        return excluded(self.classifier.accuracy, self.contrast.accuracy)
