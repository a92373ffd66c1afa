"""What an adapter holds that was made of several: subjects and styles, by what prompts call them and how they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .bench import Bench, need
from .features import collect, images, tensor
from .gallery import Gallery
from .prompts import common_words
from .relations import Related, halves

Pictures = Sequence[Image.Image]
SHRINKAGE = 0.1  # how far the covariance of a style's features is drawn towards that of a ball
TINY = 1e-9  # so that equal pictures give a line, too
ROUND = "left of", "above"  # the two ways to cut a picture in halves


@dataclass(frozen=True, eq=False)
class Concept:
    """A subject or a style.

    Attributes:
        words: what prompts call it, with its article: "a fox"; of a style with {} in the place of what is in it:
            "a poster of {}".
        pictures: of it, for reference.
        style: whether it is a style.
    """

    words: str
    pictures: Gallery
    style: bool = False

    @property
    def name(self) -> str:
        """What the report calls it."""
        return " ".join(self.words.replace("{}", " ").split()).removesuffix(" of")

    def of(self, what: str) -> str:
        """A style's prompt of something."""
        return self.words.replace("{}", what)


def concepts_of(bench: Bench) -> list[Concept]:
    """Those of --concept, then those of --style.

    Raises:
        RequestError: there are none, a folder holds no pictures, nothing says what prompts call it, or one is named
            twice.
    """
    c = bench.config
    found = [_concept(text, False) for text in c.concept] + [_concept(text, True) for text in c.style]
    need(bool(found), "--suite merge needs to know what the adapter holds; name each by --concept TEXT=DIR, as prompts "
         "call it, with a folder of its pictures, or by --style TEXT=DIR.")  # fmt: skip
    for i, one in enumerate(found):
        need(one.name not in [other.name for other in found[:i]], f"{one.name} is named twice; leave one out.")
    return found


def _concept(text: str, style: bool) -> Concept:
    """`a fox=DIR` or `DIR`: then what all captions in it share is what prompts call it."""
    flag = "--style" if style else "--concept"
    words, _, folder = ("", "", text) if Path(text).is_dir() else text.partition("=")
    need(bool(folder), f"{flag} {text} names no folder; write it as {flag} TEXT=DIR.")
    pictures = Gallery.open(folder, flag)
    words = " ".join(words.split()) or common_words(pictures.captions)
    need(bool(words.replace("{}", "").strip()), f"The captions in {folder} do not say what it is called; say so by "
         f"{flag} TEXT={folder}.")  # fmt: skip
    need(style or "{}" not in words, f"{flag} {text}: {{}} stands in a style's words, for what is drawn in it.")
    return Concept(words if "{}" in words or not style else f"{words} of {{}}", pictures, style)


# -- whether a picture shows it ----------------------------------------------------------------------------------------


def in_subject(bench: Bench, pictures: Pictures, own: Pictures, others: Pictures) -> np.ndarray:
    """Whether the nearest of each picture is one of a subject's own, in every judge's features: booleans (N,)."""
    from .suites.subject import recognised

    return recognised(bench, [pictures], own, others)[0]


def in_style(bench: Bench, pictures: Pictures, own: Pictures, others: Pictures) -> np.ndarray:
    """Whether each picture lies on the side of a style's own, in the features of distances: booleans (N,).

    Pictures in a style share a direction and no neighbourhood, as they show different things. So the line is Fisher's
    (1936) between both sets, along which what differs within them counts least, in the middle between their means.
    """
    ours, theirs = collect(bench.network, own), collect(bench.network, others)
    middles = ours.mean(axis=0), theirs.mean(axis=0)
    inside = np.concatenate([ours - middles[0], theirs - middles[1]])
    spread = inside.T @ inside / max(1, len(inside) - 2)
    spread += (SHRINKAGE * np.trace(spread) / len(spread) + TINY) * np.eye(len(spread))
    across = np.linalg.solve(spread, middles[0] - middles[1])
    return np.asarray((collect(bench.network, pictures) - (middles[0] + middles[1]) / 2) @ across > 0)


def shows(bench: Bench, one: Concept, pictures: Pictures, others: Pictures) -> np.ndarray:
    """Whether each picture shows a concept, as its own pictures do and others do not: booleans (N,)."""
    return (in_style if one.style else in_subject)(bench, pictures, one.pictures, others)


def beside(
    bench: Bench, words: Sequence[str], pictures: Pictures, pair: Sequence[tuple[Concept, Pictures]]
) -> np.ndarray:
    """Whether both of two subjects are in each picture: booleans (N,).

    Where both bundled judges know the two and how the prompt wants them to stand, they say it. Elsewhere each must be
    recognised in a half of its own, left and right or above and below, whichever way round.

    Args:
        words: the prompts.
        pair: the two, each with pictures of other things.
    """
    asked = [bench.asked(text).relation for text in words]
    if bench.panel is not None and all(asked):
        wanted: list[Related] = [one for one in asked if one]
        return np.array(bench.panel.relation_right(pictures, wanted))
    found = np.zeros(len(pictures), dtype=bool)
    for way in ROUND:
        parts = halves(tensor(pictures) * 2 - 1, way) / 2 + 0.5
        first, second = (
            [in_subject(bench, images(parts[:, k]), one.pictures, others) for k in (0, 1)] for one, others in pair
        )
        found |= (first[0] & second[1]) | (first[1] & second[0])
    return found
