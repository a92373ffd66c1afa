"""The judges' exam: real scenes that their training never used, and the share of right answers for every concept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Protocol

import numpy as np
from PIL import Image

from ..evaluation.judge import Opinion, chunks
from ..evaluation.panel import TRUST
from ..evaluation.relations import Related
from . import emoji, world
from .lessons import SUBJECTS, lesson

Accuracy = dict[str, dict[str, float]]  # kind -> concept -> share of right answers
ASPECTS = ("subject", "background", "style", "count")
KINDS = (*ASPECTS, "relation", "subject by style")


class Examined(Protocol):
    """A judge, as far as it is examined."""

    def judge(self, images: Sequence[Image.Image]) -> list[Opinion]: ...
    def relation_right(self, images: Sequence[Image.Image], asked: Sequence[Related]) -> list[bool]: ...


def singles(seed: int, each: int, subjects: Sequence[str] = SUBJECTS) -> Iterator[world.Scene]:
    """`each` scenes of every subject, the styles as often as in the world; one in ten of another size."""
    for n, name in enumerate(subjects):
        for i in range(each):
            rng = np.random.default_rng((seed, 1, n, i))
            style = world.STYLES[int(rng.choice(len(world.STYLES), p=world.STYLE_SHARE))]
            yield lesson(rng, "sized" if i % 10 == 9 else "single", (name,), style)


def several(seed: int, each: int, subjects: Sequence[str] = SUBJECTS) -> Iterator[world.Scene]:
    """`each` scenes of two or three of every subject, and twice as many of it beside another; a quarter styled."""
    for n, name in enumerate(subjects):
        for i in range(3 * each):
            rng = np.random.default_rng((seed, 2, n, i))
            style = world.STYLES[0] if rng.random() < 0.75 else world.STYLES[int(rng.integers(1, len(world.STYLES)))]
            yield lesson(rng, "related" if i % 3 else "counted", (name,), style)


def measure(judge: Examined, seed: int, each: int = 60, subjects: Sequence[str] = SUBJECTS) -> Accuracy:
    """Shares of right answers, `each` scenes a subject. Of scenes of several, the count and the relation alone."""
    right: dict[str, dict[str, list[bool]]] = {kind: defaultdict(list) for kind in KINDS}
    groups = list(several(seed, max(1, each // 30), subjects))
    single, counted = list(singles(seed, each, subjects)), [it for it in groups if not it.other]
    for aspects, scenes in ((ASPECTS, single), (("count",), counted)):
        for it, said in _judged(judge, scenes):
            for aspect in aspects:
                if concept := getattr(it, aspect):  # a sketch has no background
                    right[aspect][str(concept)].append(getattr(said, aspect) == concept)
            if aspects == ASPECTS:
                right["subject by style"][it.style].append(said.subject == it.subject)
    for some in chunks([it for it in groups if it.other]):
        asked = [Related(it.subject, it.relation, it.other) for it in some]
        answers = judge.relation_right([world.draw(it) for it in some], asked)
        for it, answer in zip(some, answers, strict=True):
            right["relation"][it.relation].append(answer)
    return {kind: {name: round(fmean(row), 4) for name, row in rows.items()} for kind, rows in right.items()}


def _judged(judge: Examined, scenes: Sequence[world.Scene]) -> Iterator[tuple[world.Scene, Opinion]]:
    for some in chunks(scenes):
        yield from zip(some, judge.judge([world.draw(it) for it in some]), strict=True)


def table(accuracies: Mapping[str, Accuracy]) -> str:
    """What the makers read: judge -> accuracy, as lines."""
    lines = [f"{'right in %':12}{'kind':18}{'mean':>8}{'trusted':>12}   the worst"]
    for judge, accuracy in accuracies.items():
        rows = accuracy | {"cats": {name: share for name, share in accuracy["subject"].items() if name in emoji.CATS}}
        for kind, shares in rows.items():
            worst = sorted(shares, key=lambda name: shares[name])[:6]
            told = ", ".join(f"{name} {100 * shares[name]:.1f}" for name in worst)
            trusted = f"{sum(share >= TRUST for share in shares.values())} of {len(shares)}"
            lines.append(f"{judge:12}{kind:18}{100 * fmean(shares.values()):8.2f}{trusted:>12}   {told}")
    return "\n".join(lines)
