"""Whether an adapter that was made of several still holds each of them, holds them together, and spares the rest.

Each concept alone, two subjects in one picture, each subject in each style, and prompts that name none of them, with
the adapter and without it at the same seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from ..bench import Bench, need, several
from ..concepts import Concept, beside, concepts_of, shows
from ..evidence import POINTS, cosines, judged, line, right_in
from ..features import collect
from ..harmonic import harmonic
from ..plan import OTHER, Drawn, Pictures, Plan, Who
from ..prompts import Prompt
from ..report import Grid, Line, Report, Table
from ..statistics import Figure
from .prompts import grid

MEAN = "harmonic mean"
SHOWN = 6  # prompts of each kind


def evaluate(bench: Bench) -> Report:
    """Draw all that the plan says with the adapter and without, at the same seeds.

    Raises:
        RequestError: there is no adapter, or nothing says what it holds.
    """
    need(bench.held_against_a_base, "--suite merge compares before with after; name the merged file by --adapter.")
    need(bench.references is None, "--suite merge draws what it compares with; --against takes a base here.")
    plan = Plan.of(bench, concepts_of(bench))
    return reported(bench, plan, plan.drawn(bench, bench.after), plan.drawn(bench, bench.before))


def reported(bench: Bench, plan: Plan, after: Drawn, before: Drawn) -> Report:
    """What pictures say that were drawn as a plan asks."""
    alone = {one: list(_alone(bench, plan, one, after, before)) for one in plan.concepts}
    together = [_together(bench, plan, who, after, before) for who in plan.together()]
    kept = _kept(bench, plan, after, before)
    parts = {**{one.name: found[0] for one, found in alone.items()}, "others": kept}
    about = f"Of {_and([f'{name} recognised' for name in list(parts)[:-1]])}, each alone, and of others kept."
    mean = Line(harmonic([part.figure for part in parts.values()], MEAN), better="higher", about=about)
    lines = [mean, *(one for found in alone.values() for one in found), *together, kept]
    lines += _cost(bench, plan, after, before)
    return bench.report(
        lines, [_table(parts, together, mean.figure)], list(_grids(plan, after, before)), [_other_words(plan)]
    )


# -- figures -----------------------------------------------------------------------------------------------------------


def _others(plan: Plan, one: Concept, before: Drawn) -> list[Image.Image]:
    """Pictures that do not show a concept: other things by the base, and the other concepts' own.

    Those in a style show anything, so that they say nothing of a subject.
    """
    rest = [other for other in plan.concepts if other is not one and (one.style or not other.style)]
    return [*before[OTHER], *(picture for other in rest for picture in other.pictures)]


def _alone(bench: Bench, plan: Plan, one: Concept, after: Drawn, before: Drawn) -> Iterator[Line]:
    """Whether a concept is recognised, and what judges see of the rest of its prompts."""
    words, others = plan.words((one,)), _others(plan, one, before)
    seen = [shows(bench, one, drawn[one,], others) for drawn in (after, before)]
    yield line(f"{one.name}: recognised", words, *seen, better="higher", about=_how(bench, one), margin=POINTS)
    for found in judged(bench, words, after[one,], before[one,]):
        yield found.named(f"{one.name}: {found.figure.name}")


def _how(bench: Bench, one: Concept) -> str:
    if one.style:
        return (
            f"Share of pictures on the side of its {len(one.pictures)} own, where Fisher's line between these and "
            f"pictures of other things lies in the features of {bench.network.name}."
        )
    both = ", to both judges" if bench.panel else ""
    return f"Share of pictures whose nearest is one of its {len(one.pictures)} own, and none of other things{both}."


def _together(bench: Bench, plan: Plan, who: Who, after: Drawn, before: Drawn) -> Line:
    """Whether both of two are in a picture."""
    words, (one, other) = plan.words(who), who
    pair = [(each, _others(plan, each, before)) for each in who]
    if one.style:
        about = "Share of pictures that are recognised as both."
        seen = [
            np.logical_and(*(shows(bench, each, drawn[who], others) for each, others in pair))
            for drawn in (after, before)
        ]
    else:
        about = "Share of pictures that show both, each in its place or in a half of its own."
        seen = [beside(bench, words, drawn[who], pair) for drawn in (after, before)]
    return line(f"{one.name} + {other.name}", words, *seen, better="higher", about=about, margin=POINTS)


def _kept(bench: Bench, plan: Plan, after: Drawn, before: Drawn) -> Line:
    """Whether prompts that name no concept still give what they ask for."""
    words = plan.words(OTHER)
    asked = [bench.asked(text) for text in words]
    rows = [i for i, one in enumerate(asked) if one.subject or one.background or one.style or one.relation]
    if bench.panel is not None and rows:
        about = "Share of pictures of other prompts in which both judges see all that is asked for and they know."
        wanted, sets = [asked[i] for i in rows], [[drawn[OTHER][i] for i in rows] for drawn in (after, before)]
        seen = [_all_right(bench, wanted, pictures) for pictures in sets]
    else:
        rows = list(range(len(words)))
        about = (
            "Share of pictures of other prompts whose nearest is what the base draws of the same prompt, and of no "
            "other one, and none of a concept's own."
        )
        seen = [_own_nearest(bench, plan, drawn[OTHER], before[OTHER]) for drawn in (after, before)]
    groups = [words[i] for i in rows]
    return line("others kept", groups, *seen, better="higher", about=about, margin=POINTS)


def _all_right(bench: Bench, asked: Sequence, pictures: Pictures) -> np.ndarray:
    """Whether both judges see all of what is asked for: booleans (N,)."""
    right = right_in(bench, asked, pictures)
    return np.array(
        [all(values[i] for aspect, values in right.items() if getattr(one, aspect)) for i, one in enumerate(asked)]
    )


def _own_nearest(bench: Bench, plan: Plan, pictures: Pictures, own: Pictures) -> np.ndarray:
    """Whether picture i is nearest to number i of the base's own, in every judge's features: booleans (N,)."""
    strange = [picture for one in plan.concepts if not one.style for picture in one.pictures]
    found = np.ones(len(pictures), dtype=bool)
    for eye in bench.eyes:
        seen, theirs = collect(eye, pictures), collect(eye, own)
        near = cosines(seen, theirs)
        away = cosines(seen, collect(eye, strange)).max(axis=1) if strange else np.full(len(seen), -1.0)
        found &= np.diag(near) >= np.maximum(near.max(axis=1), away)
    return found


def _cost(bench: Bench, plan: Plan, after: Drawn, before: Drawn) -> Iterator[Line]:
    """How far other prompts have moved, and what judges see of them."""
    words = plan.words(OTHER)
    apart = 1 - np.diag(cosines(*(collect(bench.network, drawn[OTHER]) for drawn in (after, before))))
    about = "1 - cosine of before and after, at the same seeds, of prompts that name no concept."
    yield line(f"drift of others-{bench.network.name}", words, apart, about=about)
    for found in judged(bench, words, after[OTHER], before[OTHER]):
        yield found.named(f"others: {found.figure.name}")


# -- the page ----------------------------------------------------------------------------------------------------------


def _table(parts: dict[str, Line], together: Sequence[Line], mean: Figure) -> Table:
    """What is in the harmonic mean, and what is not."""
    rows: list[tuple[str | Figure, ...]] = [(name, *_cells(one), "yes") for name, one in parts.items()]
    rows += [(one.figure.name, *_cells(one), "") for one in together]
    note = "A concept alone is recognised; of others, all that is asked for is there; two together are both there."
    return Table("What it holds", ("", "before", "after", "in the mean"), (*rows, (MEAN, "", mean, "")), note)


def _cells(one: Line) -> tuple[str | Figure, ...]:
    return one.before or "", one.figure


def _grids(plan: Plan, after: Drawn, before: Drawn) -> Iterator[Grid]:
    for who, prompts in plan.prompts.items():
        title = " + ".join(one.name for one in who) or "Other things"
        made = grid(list(map(Prompt, prompts)), plan.each(who), after[who], before[who], SHOWN if who else 16)
        yield replace(made, title=title)


def _other_words(plan: Plan) -> str:
    others = plan.prompts[OTHER]
    return f"Other things, {len(others)} prompts, a picture each: {several(others)}."


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
