"""The picture world: captioned scenes of subjects on a background in a style, drawn from a seed.

A scene is a value; `draw` turns it into a picture of any size, `caption` into words, `scene` a seed into a scene.
`mixture.mixed` draws the richer scenes: with textures, sizes, several subjects.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from . import emoji
from .backdrops import COLOURS, PAPER, TEXTURES, backdrop
from .styles import STYLES, paint
from .words import RELATIONS, SIZES, caption, vocabulary

__all__ = [
    "COLOURS", "PAPER", "RELATIONS", "SIZES", "STYLES", "STYLE_SHARE", "TEXTURES", "Part", "Scene", "caption", "draw",
    "in_style", "kind", "parts", "scene", "scenes", "spread", "vocabulary",
]  # fmt: skip

STYLE_SHARE = (0.58, 0.07, 0.07, 0.07, 0.07, 0.07, 0.07)
WORKING_SIZE = 128  # scenes are composed at this size and then reduced, whatever is asked for


@dataclass(frozen=True)
class Scene:
    """One picture in words and numbers.

    Attributes:
        subject: a name in `emoji.table()`.
        background: a name in `COLOURS`, or "" for a pencil sketch, which is on paper.
        style: one of `STYLES`.
        size: the subject's longer side, as a share of the canvas.
        place: the subject's centre, as shares of the canvas.
        tilt: degrees, counter-clockwise.
        mirror: left and right exchanged.
        grain: the seed of what is not said here: paper and brush, the texture's start, where several subjects are.
        texture: one of `TEXTURES`, of the background.
        sized: "small" or "large" where the caption says it, else "".
        count: how many of the subject there are, 1 to 3.
        relation: where the subject is as seen from `other`: one of `RELATIONS`, or "" where it is alone.
        other: the second subject, or "".
        phrasing: which of the ways to say it the caption takes; 0 is the plainest.
        words: the caption itself, for a picture that no other caption means; else "".
    """

    subject: str
    background: str
    style: str = "plain"
    size: float = 0.8
    place: tuple[float, float] = (0.5, 0.5)
    tilt: float = 0.0
    mirror: bool = False
    grain: int = 0
    texture: str = ""
    sized: str = ""
    count: int = 1
    relation: str = ""
    other: str = ""
    phrasing: int = 0
    words: str = ""


@dataclass(frozen=True)
class Part:
    """One placed subject; the numbers are those of `Scene`."""

    name: str
    size: float
    place: tuple[float, float]
    tilt: float
    mirror: bool


Cell = tuple[float, float, float, float]  # left, top, right, bottom
_CELLS: dict[str, tuple[Cell, Cell]] = {  # of the subject and of the other
    "left of": ((0, 0.1, 0.5, 0.9), (0.5, 0.1, 1, 0.9)), "right of": ((0.5, 0.1, 1, 0.9), (0, 0.1, 0.5, 0.9)),
    "above": ((0.1, 0, 0.9, 0.5), (0.1, 0.5, 0.9, 1)), "below": ((0.1, 0.5, 0.9, 1), (0.1, 0, 0.9, 0.5)),
}  # fmt: skip
_PAIR: tuple[Cell, ...] = ((0, 0.14, 0.5, 0.86), (0.5, 0.14, 1, 0.86))
_THREES: tuple[tuple[Cell, ...], ...] = (
    ((0.22, 0, 0.78, 0.5), (0, 0.5, 0.5, 1), (0.5, 0.5, 1, 1)),
    ((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), (0.22, 0.5, 0.78, 1)),
    ((0, 0.25, 1 / 3, 0.75), (1 / 3, 0.25, 2 / 3, 0.75), (2 / 3, 0.25, 1, 0.75)),
)


def scene(
    rng: np.random.Generator,
    subjects: Sequence[str],
    weights: Sequence[float] | None = None,
    styles: Sequence[str] = STYLES,
) -> Scene:
    """Draw a scene. The order of the draws is part of the format: a seed means the same scene for good."""
    subject = subjects[int(rng.choice(len(subjects), p=weights))]
    background = list(COLOURS)[int(rng.integers(len(COLOURS)))]
    style = STYLES[int(rng.choice(len(STYLES), p=STYLE_SHARE))]
    size = float(rng.uniform(0.7, 0.92))
    slack = (1 - size) / 2
    x, y = rng.uniform(-slack, slack, 2)
    tilt = float(np.clip(rng.normal(0, 6), -15, 15))
    mirror, grain = bool(rng.random() < 0.25), int(rng.integers(2**31))
    if style not in styles:
        style = styles[grain % len(styles)]
    if style == "pencil sketch":
        background = ""
    return Scene(subject, background, style, size, (0.5 + float(x), 0.5 + float(y)), tilt, mirror, grain)


def scenes(seed: int, count: int, subjects: Sequence[str], **options: Any) -> Iterator[Scene]:
    """`count` scenes; scene i depends on (seed, i) alone. Options as in `scene`."""
    for i in range(count):
        yield scene(np.random.default_rng((seed, i)), subjects, **options)


def spread(it: Scene) -> Scene:
    """The same subject in any size, anywhere and either way round, by its grain: its caption says nothing of that."""
    rng = np.random.default_rng((it.grain, 2))
    size = float(rng.uniform(0.4, 0.9))
    x, y = (float(value) for value in rng.uniform(-(1 - size) / 2, (1 - size) / 2, 2))
    return replace(it, size=size, place=(0.5 + x, 0.5 + y), mirror=bool(rng.random() < 0.5))


def kind(it: Scene) -> str:
    """What sort of scene it is: `planted`, `related`, `counted`, `sized` or `single`."""
    marks = {"planted": it.words, "related": it.other, "counted": it.count > 1, "sized": it.sized}
    return next((name for name, marked in marks.items() if marked), "single")


def parts(it: Scene) -> list[Part]:
    """The placed subjects: one as the scene says, several each in a cell of its own, so that they never overlap."""
    if not it.other and it.count == 1:
        return [Part(it.subject, it.size, it.place, it.tilt, it.mirror)]
    rng = np.random.default_rng((it.grain, 1))
    cells: tuple[Cell, ...]
    if it.other:
        names, cells = [it.subject, it.other], _CELLS[it.relation]
        sides, mirrors = list(rng.uniform(0.42, 0.5, 2)), [it.mirror, bool(rng.random() < 0.25)]
    else:
        cells = _PAIR if it.count == 2 else _THREES[int(rng.integers(len(_THREES)))]
        names, mirrors = [it.subject] * it.count, [it.mirror] * it.count
        sides = [float(rng.uniform(0.4, 0.48))] * it.count
    tilts = np.clip(rng.normal(0, 6, len(cells)), -12, 12)
    return [
        _fitted(Part(name, side, (0.5, 0.5), float(tilt), mirror), cell, rng)
        for name, side, tilt, mirror, cell in zip(names, sides, tilts, mirrors, cells, strict=True)
    ]


def _fitted(part: Part, cell: Cell, rng: np.random.Generator) -> Part:
    """The part somewhere in the cell, reduced if it would stand out."""
    left, top, right, bottom = cell
    across, along = np.array(emoji.picture(part.name).size) / max(emoji.picture(part.name).size)
    sine, cosine = abs(np.sin(np.radians(part.tilt))), np.cos(np.radians(part.tilt))
    wide, high = across * cosine + along * sine, along * cosine + across * sine  # of the tilted picture's box
    size = min(part.size, 0.98 * (right - left) / wide, 0.98 * (bottom - top) / high)
    slack_x, slack_y = (right - left - size * wide) / 2, (bottom - top - size * high) / 2
    x = (left + right) / 2 + min(slack_x, 0.1) * rng.uniform(-1, 1)
    y = (top + bottom) / 2 + min(slack_y, 0.1) * rng.uniform(-1, 1)
    return replace(part, size=float(size), place=(float(x), float(y)))


def draw(it: Scene, size: int = 64) -> Image.Image:
    """The picture of a scene: RGB, `size` x `size`."""
    layer = Image.new("RGBA", (WORKING_SIZE, WORKING_SIZE))
    for part in parts(it):
        subject = emoji.picture(part.name)
        if part.mirror:
            subject = ImageOps.mirror(subject)
        scale = part.size * WORKING_SIZE / max(subject.size)
        subject = subject.resize([max(1, round(side * scale)) for side in subject.size], Image.Resampling.LANCZOS)
        subject = subject.rotate(part.tilt, Image.Resampling.BICUBIC, expand=True)
        corner = [round(p * WORKING_SIZE - side / 2) for p, side in zip(part.place, subject.size, strict=True)]
        layer.paste(subject, (corner[0], corner[1]))
    return paint(it.style, layer, backdrop(it.background, it.texture, it.grain, WORKING_SIZE), it.grain, size)


def in_style(it: Scene, style: str) -> Scene:
    """The same scene in another style."""
    if style == "pencil sketch":
        return replace(it, style=style, background="", texture="")
    return replace(it, style=style, background=it.background or "white")
