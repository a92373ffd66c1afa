"""Lines of evidence: values of single pictures, made figures with intervals, before and after.

All take a value for each picture and the prompts as groups, so that every interval is over prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ..errors import RequestError
from .asked import ASPECTS, Asked
from .bench import Bench
from .comparison import difference as independent
from .coverage import precision_recall
from .distances import FEW, frechet, inception_score, kid
from .features import collect
from .report import Line, Table
from .statistics import Figure, difference, mean, share

Direction = Literal["higher", "lower", ""]
Seen = Sequence[Image.Image]
ABOUT = {
    "subject": "How often both judges see the subject that the prompt names.",
    "background": "How often both judges see the background that the prompt names.",
    "style": "How often both judges see the style that the prompt names.",
    "relation": "How often both judges see the two subjects that the prompt names, each in its place.",
}
POINTS = 0.02  # shares closer than this are taken for the same
NEIGHBOURS = 3  # whose distance sets the reach of precision and recall


def line(
    name: str,
    groups: Sequence[str],
    after: ArrayLike,
    before: ArrayLike | None = None,
    *,
    better: Direction = "",
    about: str = "",
    margin: float = 0.0,
) -> Line:
    """Values (N,) of pictures, and of their pairs before. Booleans become shares."""
    make = share if np.asarray(after).dtype == bool else mean
    figure = make(after, name, groups)
    if before is None:
        return Line(figure, better=better, about=about, margin=margin)
    change = difference(before, after, name, groups, figure.unit)
    return Line(figure, make(before, name, groups), change, better, about, margin)


def judged(bench: Bench, prompts: Sequence[str], after: Seen, before: Seen | None = None) -> Iterator[Line]:
    """What both bundled judges see of what each prompt asks for; nothing where they are not asked."""
    if bench.panel is None:
        return
    asked = [bench.asked(prompt) for prompt in prompts]
    right = [right_in(bench, asked, pictures) for pictures in (after, before) if pictures is not None]
    for aspect in (*ASPECTS, "relation"):
        rows = [i for i, one in enumerate(asked) if getattr(one, aspect)]
        if rows:
            values = [[answers[aspect][i] for i in rows] for answers in right]
            groups = [prompts[i] for i in rows]
            yield line(f"{aspect} right", groups, *values, better="higher", about=ABOUT[aspect], margin=POINTS)


def right_in(bench: Bench, asked: Sequence[Asked], pictures: Seen) -> dict[str, list[bool]]:
    """Aspect -> whether both judges see in each picture what is asked for (False where nothing is)."""
    assert bench.panel is not None
    opinions = bench.panel.judge(pictures)
    related = [i for i, want in enumerate(asked) if want.relation]
    found = bench.panel.relation_right([pictures[i] for i in related], [w.relation for w in asked if w.relation])
    stand = dict(zip(related, found, strict=True))
    return {"relation": [stand.get(i, False) for i in range(len(asked))]} | {
        aspect: [
            bool(getattr(want, aspect)) and all(getattr(said, aspect) == getattr(want, aspect) for said in both)
            for want, both in zip(asked, opinions, strict=True)
        ]
        for aspect in ASPECTS
    }  # fmt: skip


def texts(bench: Bench, prompts: Sequence[str], after: Seen, before: Seen | None = None) -> Iterator[Line]:
    """How well pictures agree with their prompts: the CLIP score where a CLIP is named, else the bundled judge's."""
    sets = [pictures for pictures in (after, before) if pictures is not None]
    read = [bench.read(prompt) for prompt in prompts]
    if bench.clip is not None:
        about = f"100 times the cosine of picture and prompt in {bench.clip.name}."
        scores = [bench.clip.scores(pictures, read) for pictures in sets]
        yield line("CLIP score", prompts, *scores, better="higher", about=about)
    if bench.panel is not None:
        about = "The cosine of picture and prompt, by the bundled picture-text judge."
        values = [bench.panel.agreement(pictures, read) for pictures in sets]
        yield line("text agreement-judge", prompts, *values, better="higher", about=about)


def distances(bench: Bench, references: Seen, after: Seen, before: Seen | None = None) -> Iterator[Line]:
    """How far pictures are from real ones, as sets: KID, precision, recall, and FD and IS where there are enough.

    Before and after count as independent here: no pair of pictures has a distance from a set.
    """
    name, theirs = bench.network.name, collect(bench.network, references)
    sets = [collect(bench.network, pictures) for pictures in (after, before) if pictures is not None]
    fewest = min(map(len, (theirs, *sets)))

    def told(figures: Sequence[Figure], better: Direction, about: str) -> Line:
        if before is None:
            return Line(figures[0], better=better, about=about)
        return Line(figures[0], figures[1], independent(figures[1], figures[0]), better, about)

    about = "Distance of the two sets (MMD); equal sets are near 0."
    yield told([kid(ours, theirs, name) for ours in sets], "lower", about)
    if fewest > NEIGHBOURS:
        precision, recall = zip(*(precision_recall(ours, theirs, name, NEIGHBOURS) for ours in sets), strict=True)
        yield told(precision, "higher", "Share of the pictures that look like one of the references.")
        yield told(recall, "higher", "Share of the references that one of the pictures comes near.")
    if fewest >= FEW:
        yield told([frechet(ours, theirs, name) for ours in sets], "lower", "Distance of the two sets as Gaussians.")
        chances = _chances(bench, after)
        if chances is not None:
            about = "How sure the classes are, and how many there are."
            yield Line(inception_score(chances, name), better="higher", about=about)


def _chances(bench: Bench, pictures: Seen) -> np.ndarray | None:
    """Class probabilities; None of a network that knows no classes."""
    try:
        return collect(bench.network.probabilities, pictures)
    except RequestError:
        return None


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The cosines of features (N, D) with features (M, D): (N, M)."""
    ours, theirs = (table / np.linalg.norm(table, axis=1, keepdims=True) for table in (left, right))
    return ours @ theirs.T


def variety(features: np.ndarray, groups: Sequence[str]) -> tuple[list[float], list[str]]:
    """1 - cosine of each pair of pictures of one prompt, and the pairs' prompts."""
    values, owners = [], []
    for group in dict.fromkeys(groups):
        rows = [i for i, one in enumerate(groups) if one == group]
        near = cosines(features[rows], features[rows])
        for a, b in combinations(range(len(rows)), 2):
            values.append(float(1 - near[a, b]))
            owners.append(group)
    return values, owners


def by_category(title: str, values: ArrayLike, groups: Sequence[str], categories: Sequence[str], name: str) -> Table:
    """A figure for each category."""
    numbers = np.asarray(values)
    make: Callable[..., Figure] = share if numbers.dtype == bool else mean
    rows = []
    for category in dict.fromkeys(categories):
        index = [i for i, one in enumerate(categories) if one == category]
        rows.append((category or "(none)", make(numbers[index], name, [groups[i] for i in index])))
    return Table(title, ("category", name), tuple(rows))
