"""The scenes that the judges learn from: more of what is rare and difficult than the world draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from . import emoji, world

SUBJECTS = emoji.KNOWN + emoji.HELD_OUT
KINDS = {"single": 0.56, "sized": 0.14, "counted": 0.1, "related": 0.2}
PLAIN = {"single": 0.4, "sized": 0.4, "counted": 0.7, "related": 0.7}  # shares in plain style; the others evenly
TEXTURED = 0.25
SMALL = 0.7  # share of the sized ones
STRANGERS = 0.12  # share of single pictures of no subject that the judges know
CAT_WEIGHT = 2.5  # eleven faces that differ by a mouth and two eyes
PHRASINGS = 7


def lessons(seed: int, number: int, count: int) -> Iterator[world.Scene]:
    """Scene i depends on (seed, number, i) alone."""
    for i in range(count):
        rng = np.random.default_rng((seed, number, i))
        kind = tuple(KINDS)[int(rng.choice(len(KINDS), p=list(KINDS.values())))]
        style = world.STYLES[0] if rng.random() < PLAIN[kind] else world.STYLES[int(rng.integers(1, len(world.STYLES)))]
        known = kind != "single" or rng.random() >= STRANGERS
        yield lesson(rng, kind, SUBJECTS if known else strangers(), style)


def lesson(rng: np.random.Generator, kind: str, subjects: Sequence[str], style: str) -> world.Scene:
    """A scene of a kind (`single`, `sized`, `counted` or `related`) of one of the subjects, cats more often."""
    it = world.scene(rng, subjects, _weights(subjects), (style,))
    textured = it.background and rng.random() < TEXTURED
    texture = world.TEXTURES[int(rng.integers(1, len(world.TEXTURES)))] if textured else ""
    it = replace(it, texture=texture, phrasing=int(rng.integers(PHRASINGS)))
    if kind == "counted":
        return replace(it, count=int(rng.integers(2, 4)))
    if kind == "related":
        relation = world.RELATIONS[int(rng.integers(len(world.RELATIONS)))]
        others = [name for name in SUBJECTS if name != it.subject]
        return replace(it, relation=relation, other=others[int(rng.choice(len(others), p=_weights(others)))])
    return _sized(rng, it) if kind == "sized" else it


def strangers() -> list[str]:
    """The pictures that no judge is taught."""
    return sorted(set(emoji.table()) - set(SUBJECTS))


def pictures(scenes: Sequence[world.Scene]) -> Tensor:
    """The scenes drawn: uint8 (N, 3, 64, 64)."""
    found = np.empty((len(scenes), 3, 64, 64), np.uint8)
    for row, it in zip(found, scenes, strict=True):
        row[:] = np.asarray(world.draw(it)).transpose(2, 0, 1)
    return torch.from_numpy(found)


def _sized(rng: np.random.Generator, it: world.Scene) -> world.Scene:
    word = "small" if rng.random() < SMALL else "large"
    size = float(rng.uniform(*world.SIZES[word]))
    x, y = rng.uniform(-(1 - size) / 2, (1 - size) / 2, 2)
    return replace(it, sized=word, size=size, place=(0.5 + float(x), 0.5 + float(y)))


def _weights(subjects: Sequence[str]) -> list[float]:
    weights = np.array([CAT_WEIGHT if name in emoji.CATS else 1.0 for name in subjects])
    return (weights / weights.sum()).tolist()
