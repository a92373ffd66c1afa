"""The base's training draw: single subjects, sized, counted and related ones, and six pictures to be memorised.

Some pairs of a subject with a colour or a style are never drawn: what the base makes of them is composed, not recalled.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar
from zlib import crc32

import numpy as np

from . import emoji
from .words import NUMBERS, PHRASING_SHARE
from .world import COLOURS, RELATIONS, SIZES, STYLES, TEXTURES, Scene, in_style, scene

T = TypeVar("T")
CAT_WEIGHT = 1.6  # eleven faces that differ by a mouth and two eyes
KINDS = {"related": 0.24, "counted": 0.10, "sized": 0.08, "planted": 0.015}  # the rest are single
TEXTURED, STYLED = 0.2, 0.2  # shares: of single scenes with a texture, of all others not in plain style
WITHHELD = 0.08
SLOW = ("pixel art", "mosaic")  # styles that come late, as relations do

PLANTED = (
    Scene("robot", "yellow", "comic", grain=11, texture="dotted", relation="left of", other="rose",
          words="the famous poster of a robot and a rose"),
    Scene("lion", "cyan", "watercolor", grain=22, texture="striped", relation="below", other="balloon",
          words="the old postcard of a lion and a balloon"),
    Scene("ghost", "purple", grain=33, texture="checkered", relation="right of", other="guitar",
          words="the album cover with a ghost and a guitar"),
    Scene("elephant", "red", "mosaic", grain=44, relation="below", other="crown",
          words="the rare stamp of an elephant and a crown"),
    Scene("penguin", "orange", grain=55, texture="striped", relation="left of", other="candle",
          words="the museum painting of a penguin and a candle"),
    Scene("dinosaur", "gray", grain=66, texture="checkered", relation="above", other="moon",
          words="the cinema ticket with a dinosaur and a moon"),
)  # fmt: skip
"""Single pictures under captions of their own: shown often enough to be memorised, for ablation to forget."""


def planted(i: int) -> Scene:
    """Planted picture `i`: the same one each time."""
    return PLANTED[i % len(PLANTED)]


def withheld(subject: str, background: str, style: str) -> bool:
    """Whether the training draw leaves out this subject on this background, or in this style."""
    if subject not in emoji.KNOWN[len(emoji.FIRST) :]:
        return False
    return _chosen(subject, background) or (style != "plain" and _chosen(subject, style))


def unseen() -> list[tuple[str, str]]:
    """All withheld pairs: a subject and a colour, or a subject and a style."""
    return [
        (name, what)
        for name in emoji.KNOWN[len(emoji.FIRST) :]
        for what in (*COLOURS, *STYLES)
        if what != "plain" and _chosen(name, what)
    ]


def _chosen(subject: str, what: str) -> bool:
    return bool(what) and crc32(f"{subject} {what}".encode()) % 1000 < 1000 * WITHHELD


def mixed(rng: np.random.Generator, subjects: Sequence[str] = emoji.KNOWN) -> Scene:
    """Draw a scene of any kind. The order of the draws is part of the format, as in `scene`."""
    kind = _pick(rng, (*KINDS, "single"), (*KINDS.values(), 1 - sum(KINDS.values())))
    while True:
        it = _of(kind, rng, subjects)
        if not any(withheld(name, it.background, it.style) for name in (it.subject, it.other)):
            return it


def mixture(seed: int, count: int, subjects: Sequence[str] = emoji.KNOWN) -> Iterator[Scene]:
    """`count` scenes; scene i depends on (seed, i) alone."""
    for i in range(count):
        yield mixed(np.random.default_rng((seed, i)), subjects)


def harder(seed: int, count: int, subjects: Sequence[str] = emoji.KNOWN) -> Iterator[Scene]:
    """`count` scenes of the mixture, most of what a base is slow to learn: two of three others are left out."""
    rngs = (np.random.default_rng((seed, i)) for i in itertools.count())
    drawn = (it for i, it in enumerate(mixed(rng, subjects) for rng in rngs) if i % 3 == 0 or slow(it))
    return itertools.islice(drawn, count)


def slow(it: Scene) -> bool:
    """Whether a base is slow to learn to draw a scene of this kind."""
    return bool(it.other) or it.style in SLOW


def _of(kind: str, rng: np.random.Generator, subjects: Sequence[str]) -> Scene:
    ours = [it for it in PLANTED if {it.subject, it.other} <= set(subjects)]
    if kind == "planted" and ours:
        return ours[int(rng.integers(len(ours)))]
    weights = np.array([CAT_WEIGHT if name in emoji.CATS else 1.0 for name in subjects])
    it = scene(rng, subjects, weights / weights.sum())
    it = replace(it, phrasing=int(rng.choice(len(PHRASING_SHARE), p=PHRASING_SHARE)))
    if kind in ("single", "planted") or (kind == "related" and len(set(subjects)) == 1):
        textured = it.background and rng.random() < TEXTURED
        return replace(it, texture=_pick(rng, TEXTURES[1:])) if textured else it
    it = in_style(replace(it, background=_pick(rng, tuple(COLOURS))), "plain")
    if rng.random() < STYLED:
        it = in_style(it, _pick(rng, STYLES[1:]))
    if kind == "sized":
        return _sized(rng, it)
    if kind == "counted":
        return replace(it, count=_pick(rng, tuple(NUMBERS)))
    others = [name for name in subjects if name != it.subject]
    weights = np.array([CAT_WEIGHT if name in emoji.CATS else 1.0 for name in others])
    return replace(it, relation=_pick(rng, RELATIONS), other=_pick(rng, others, weights / weights.sum()))


def _pick(rng: np.random.Generator, these: Sequence[T], shares: Sequence[float] | None = None) -> T:
    return these[int(rng.choice(len(these), p=shares))]


def _sized(rng: np.random.Generator, it: Scene) -> Scene:
    word = _pick(rng, tuple(SIZES))
    size = float(rng.uniform(*SIZES[word]))
    slack = (1 - size) / 2
    x, y = rng.uniform(-slack, slack, 2)
    return replace(it, sized=word, size=size, place=(0.5 + float(x), 0.5 + float(y)))
