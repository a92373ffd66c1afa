"""Pictures drawn in few steps: one way to draw at a time, and what is to be known of what it gave."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from ..sampling.shots import Shot
from .asked import ASPECTS, Names
from .bench import Bench
from .coverage import precision_recall
from .distances import kid
from .distilled import Side
from .evidence import NEIGHBOURS, right_in, variety
from .features import collect
from .gallery import Gallery
from .statistics import Figure

SCENES = 8705  # the seed of scenes that nothing was trained on
SHOWN = 12  # prompts of which a picture is kept
Pictures = Sequence[Image.Image]
T = TypeVar("T")


@dataclass(frozen=True)
class Way:
    """Who draws, in how many steps."""

    side: Side
    steps: int

    @property
    def name(self) -> str:
        return f"{self.side.name}, {told(self.steps)}"


class Values(NamedTuple):
    """A value for each picture, or pair of them, and their prompts."""

    numbers: np.ndarray
    groups: list[str]


@dataclass(frozen=True)
class Row:
    """What one way of drawing gave. The pictures themselves are let go of, but for a few.

    Attributes:
        way: the way.
        values: by figure.
        features: of all pictures, (N, D).
        seconds: for a picture, from its prompt on.
        shown: the first picture of some of the prompts.
    """

    way: Way
    values: Mapping[str, Values]
    features: np.ndarray
    seconds: Figure
    shown: Pictures


def some(items: Sequence[T]) -> Sequence[T]:
    """At most as many as are shown, evenly taken."""
    return items[:: -(-len(items) // SHOWN)]


def told(steps: int) -> str:
    """`1 step`, `4 steps`."""
    return f"{steps} step{'s' * (steps != 1)}"


def drawn(bench: Bench, way: Way, shots: Sequence[Shot]) -> tuple[list[Image.Image], float]:
    """Shots drawn in a way, and the seconds for each. The first of them is drawn before the clock runs."""
    from ..adapters.apply import adapted
    from ..sampling.drawing import draw

    side = way.side
    ours = [replace(shot, steps=way.steps, guidance=side.guidance) for shot in shots]
    with adapted(bench.pipe(side.base, side.sampler), side.adapters) as pipe:
        pipe.scheduler.register_to_config(**side.schedule)
        list(draw(pipe, ours[:1]))
        began = time.perf_counter()
        pictures = bench.drawn(pipe, ours, way.name)
        return pictures, (time.perf_counter() - began) / len(pictures)


def measured(bench: Bench, way: Way, prompts: Sequence[str]) -> Row:
    """Draw --count pictures of each prompt in a way, and measure each."""
    shots = bench.shots(prompts)
    words = [shot.prompt for shot in shots]
    pictures, seconds = drawn(bench, way, shots)
    features = collect(bench.network, pictures)
    values = dict(_values(bench, words, pictures))
    if bench.config.count > 1:
        apart, pairs = variety(features, words)
        values[f"diversity-{bench.network.name}"] = Values(np.array(apart), pairs)
    shown = some(list(range(0, len(pictures), bench.config.count)))
    clock = Figure("seconds a picture", seconds, len(pictures))
    return Row(way, values, features, clock, [pictures[i] for i in shown])


def _values(bench: Bench, words: list[str], pictures: Pictures) -> Iterator[tuple[str, Values]]:
    """What judges see of what each prompt asks for, and how well it agrees with the picture."""
    if bench.panel is not None:
        asked = [bench.asked(text) for text in words]
        for aspect, right in right_in(bench, asked, pictures).items():
            rows = [i for i, one in enumerate(asked) if getattr(one, aspect)]
            if rows:
                yield f"{aspect} right", Values(np.array(right)[rows], [words[i] for i in rows])
    read = [bench.read(text) for text in words]
    if bench.clip is not None:
        yield "CLIP score", Values(bench.clip.scores(pictures, read), words)
    if bench.panel is not None:
        yield "text agreement-judge", Values(bench.panel.agreement(pictures, read), words)


def against_real(bench: Bench, row: Row, real: np.ndarray | None) -> Iterator[Figure]:
    """How far the pictures are from real ones, as sets; nothing where there are none."""
    if real is not None and min(len(row.features), len(real)) > 1:
        yield kid(row.features, real, bench.network.name)


def against_teacher(bench: Bench, row: Row, teacher: Row) -> Iterator[Figure]:
    """Precision and recall against the teacher's pictures at other seeds, so that its own row says what can be had.

    Every other picture is held against those in between: at the same seed a student's picture is like its teacher's,
    and would be covered by that one alone. With one picture a prompt there are no other seeds.
    """
    if bench.config.count < 2:
        return
    ours, theirs = row.features[::2], teacher.features[1::2]
    if min(len(ours), len(theirs)) > NEIGHBOURS:
        yield from precision_recall(ours, theirs, bench.network.name, NEIGHBOURS)


def real_pictures(bench: Bench, prompts: Sequence[str]) -> np.ndarray | None:
    """Features of the pictures of --images, else of new scenes of what the prompts ask for, as many as are drawn.

    None where no pictures are named and the base is not of the bundled judges' world.
    """
    if bench.config.images:
        return collect(bench.network, Gallery.open(bench.config.images, "--images"))
    if bench.panel is None:
        return None
    made = list(scenes(bench, [shot.prompt for shot in bench.shots(prompts)]))
    return collect(bench.network, made) if made else None


def scenes(bench: Bench, words: Sequence[str]) -> Iterator[Image.Image]:
    """A new scene for each prompt, of its subject on its background in its style; nothing where none names a subject.

    Here judges judge nothing, so that those subjects take part, too, which they are not trusted with.
    """
    from ..bundled import world

    assert bench.panel is not None
    names = Names(bench.panel.classifier.subjects, world.COLOURS, world.STYLES)
    asked = [names.asked(bench.read(text)) for text in words]
    known = tuple(dict.fromkeys(one.subject for one in asked if one.subject))
    for i, want in enumerate(asked if known else ()):
        it = world.scene(np.random.default_rng((SCENES, i)), (want.subject,) if want.subject else known)
        it = replace(it, background=want.background or it.background or "white")
        if want.relation:
            it = replace(it, subject=want.relation.first, relation=want.relation.relation, other=want.relation.second)
        yield world.draw(world.in_style(it, want.style or "plain"))


def aspects(rows: Sequence[Row]) -> list[str]:
    """The figures of single pictures that all rows have, in the order in which they are told."""
    order = [f"{aspect} right" for aspect in (*ASPECTS, "relation")]
    return sorted(rows[0].values, key=lambda name: order.index(name) if name in order else len(order))
