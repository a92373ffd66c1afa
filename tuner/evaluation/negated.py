"""What a negative prompt still does to pictures that are drawn in few steps.

Without guidance it does nothing at all: the prediction that it would lead away from is never made. So the student is
also given a little guidance, as people do who want one, and the teacher as little. Of each prompt a picture is drawn
with a negative prompt and without, at the same seed. Where the bundled judges look, prompts name no background, and the
negative prompt names the one that both judges see in the picture without it: it has done its work where neither of
them sees that background any more. Elsewhere there is only how far the picture has moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .bench import Bench
from .evidence import cosines
from .features import collect
from .few import Way, drawn
from .statistics import Figure, mean, share

MOST = 128  # prompts
LITTLE = 2.0  # guidance
USUAL = "blurry, low quality"  # where nobody can say what is in a picture


@dataclass(frozen=True)
class Negated:
    """What negative prompts did to the pictures of a way, by prompt.

    Attributes:
        way: the way.
        moved: 1 - cosine of the features of the two pictures, (N,).
        gone: whether what the negative prompt names is no longer seen, (N,) booleans; None where nobody looked.
        groups: the prompts.
    """

    way: Way
    moved: np.ndarray
    gone: np.ndarray | None
    groups: list[str]

    def figures(self, features: str) -> Iterator[Figure]:
        """What can be said of it."""
        if self.gone is not None:
            yield share(self.gone, "negative prompt obeyed", self.groups)
        yield mean(self.moved, f"moved by a negative prompt-{features}", self.groups)


def ways(way: Way) -> list[Way]:
    """A way as it is drawn in, and with a little guidance."""
    little = replace(way, side=replace(way.side, guidance=LITTLE))
    return [way] if little == way else [way, little]


def negated(bench: Bench, way: Way, prompts: Sequence[str]) -> Negated | None:
    """Draw with negative prompts and without; None where there is nothing that they could name."""
    chosen = [prompts[i] for i in range(0, len(prompts), -(-len(prompts) // MOST))]
    if bench.panel is not None:
        chosen = list(dict.fromkeys(f"a {it.subject}" for it in map(bench.asked, chosen) if it.subject))
    shots = bench.shots(chosen, 1)
    before = drawn(bench, way, shots)[0] if shots else []
    seen = _backgrounds(bench, before)
    rows = [i for i, name in enumerate(seen) if name]
    if not rows:
        return None
    named = [f"{seen[i]} background" if bench.panel else USUAL for i in rows]
    after, _ = drawn(bench, way, [replace(shots[i], negative=text) for i, text in zip(rows, named, strict=True)])
    left, kept = (collect(bench.network, pictures) for pictures in (after, [before[i] for i in rows]))
    moved = np.abs(1 - np.diag(cosines(left, kept)).round(8))
    gone = None
    if bench.panel is not None:
        both = zip(bench.panel.judge(after), rows, strict=True)
        gone = np.array([all(said.background != seen[i] for said in opinions) for opinions, i in both])
    return Negated(way, moved, gone, [shots[i].prompt for i in rows])


def _backgrounds(bench: Bench, pictures: Sequence[Image.Image]) -> list[str]:
    """The background that both judges see, where they agree on one that they can be trusted with; else ""."""
    if bench.panel is None:
        return [USUAL] * len(pictures)
    known = bench.panel.trusted("background")
    return [
        one.background if one.background == other.background and one.background in known else ""
        for one, other in (bench.panel.judge(pictures) if pictures else ())
    ]
