"""What drawing in few steps costs: a distilled adapter or model against its teacher, which takes its time.

The same prompts and seeds in every row: the student in 1, 2, 4 and 8 steps, the teacher in as few, and in as many as it
needs. Beside what judges see in single pictures stand the distance from real pictures (KID), precision and recall
against the teacher's (Kynkäänniemi et al. 2019, arXiv:1904.06991), how much pictures of one prompt differ, seconds, and
what negative prompts still do: blur, sameness and deafness to them are what such students are known for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..bench import Bench, need
from ..comparison import difference
from ..distilled import FEW, is_told, manner_of, sides
from ..evidence import ABOUT, POINTS, line
from ..few import Row, Values, Way, against_real, against_teacher, aspects, measured, real_pictures, some, told
from ..lines import Direction
from ..negated import Negated, negated, ways
from ..report import Grid, Line, Report, Table
from ..statistics import Figure, mean, share
from .prompts import prompts_of

TEACHER = "Before is the teacher in {}."
BETTER: dict[str, Direction] = {"KID": "lower", "seconds a picture": "lower", "diversity": "", "moved": ""}
TOLD = {
    "KID": "Distance of the set from real pictures (MMD); equal sets are near 0.",
    "precision": "Share of the pictures that look like one of the teacher's, drawn at other seeds.",
    "recall": "Share of the teacher's pictures that one of these comes near, drawn at other seeds.",
    "diversity": "1 - cosine between pictures of one prompt: 0 where all are the same; spoilt ones differ more, too.",
    "seconds a picture": "From the prompt to the picture, --batch-size at once.",
    "CLIP score": "100 times the cosine of picture and prompt.",
    "text agreement": "The cosine of picture and prompt, by the bundled picture-text judge.",
    "negative prompt obeyed": "How often neither judge sees any more what the negative prompt names.",
    "moved by a negative prompt": "1 - cosine of pictures of a prompt and a seed, with a negative prompt and without.",
    **{f"{aspect} right": about for aspect, about in ABOUT.items()},
}


@dataclass(frozen=True)
class Held:
    """What students are held against.

    Attributes:
        prompts: what is drawn.
        real: features of real pictures; None where there are none.
        full: the teacher in as many steps as it needs.
        hurried: the teacher in as few as the student.
        denied: what negative prompts do to the teacher's pictures.
    """

    prompts: Sequence[str]
    real: np.ndarray | None
    full: Row
    hurried: Sequence[Row]
    denied: Sequence[Negated]


def evaluate(bench: Bench, held: Held | None = None) -> Report:
    """Draw in few steps and in many, and hold the one against the other.

    Args:
        held: what the teacher has drawn already, where several of its students are judged with the same options.

    Raises:
        RequestError: nothing says what was distilled from what, or there are no prompts.
    """
    student, few, way = sides(bench)[0], _few(bench), manner_of(bench.judged) or FEW
    held = held or held_against(bench)
    students = [measured(bench, Way(student, steps), held.prompts) for steps in few]
    usual = Way(student, way.steps)
    denied = [*held.denied, *_denied(bench, usual, held.prompts)]
    rows, full = [*students, *held.hurried, held.full], held.full
    sets = {row.way.name: [*against_real(bench, row, held.real), *against_teacher(bench, row, full)] for row in rows}
    lines = [one for row in students for one in _lines(row, full, sets[row.way.name], sets[full.way.name])]
    lines += _of_negatives(bench, usual, denied)
    teacher = full.way
    settings = {
        "steps": ", ".join(map(told, few)), "sampler": student.sampler, "guidance": student.guidance,
        "teacher": f"{teacher.side.sampler}, {told(teacher.steps)}, guidance {teacher.side.guidance:g}",
        "prompts": len(held.prompts), "real pictures": 0 if held.real is None else len(held.real),
    }  # fmt: skip
    tables = [_table(rows, sets), *_negatives(bench, denied)]
    grid = _grid(held.prompts, [*students, full])
    return bench.report(lines, tables, [grid], _notes(bench, held.real, denied), settings)


def held_against(bench: Bench) -> Held:
    """Draw what a student is held against. Raises RequestError as `evaluate`."""
    c, (_, teacher) = bench.config, sides(bench)
    need(bench.references is None, "--suite few-step draws what it compares with; --against takes a base here, and "
         "real pictures are named by --images.")  # fmt: skip
    prompts = [one.text for one in prompts_of(bench)]
    real, full = real_pictures(bench, prompts), Way(teacher, c.teacher_steps)
    hurried = [measured(bench, Way(teacher, n), prompts) for n in _few(bench) if n != c.teacher_steps]
    return Held(prompts, real, measured(bench, full, prompts), hurried, _denied(bench, full, prompts))


def _few(bench: Bench) -> list[int]:
    few, way = list(dict.fromkeys(bench.config.few)), manner_of(bench.judged) or FEW
    need(way.sampler != "lcm" or max(few) <= way.teacher_steps, f"--few {max(few)} is more steps than the sampler lcm "
         f"has here; take {way.teacher_steps} at most.")  # fmt: skip
    return few


def _denied(bench: Bench, way: Way, prompts: Sequence[str]) -> list[Negated]:
    """What negative prompts do to a way as it is, and with little guidance."""
    able = [way] if is_told(bench, way.side.base) else ways(way)
    return [found for each in able if (found := negated(bench, each, prompts))]


# -- figures -----------------------------------------------------------------------------------------------------------


def _lines(row: Row, full: Row, ours: Sequence[Figure], theirs: Sequence[Figure]) -> Iterator[Line]:
    """A student's figures in so many steps, after, against its teacher's in many, before."""
    end, before = told(row.way.steps), TEACHER.format(told(full.way.steps))
    for name in aspects([row]):
        mine, its = row.values[name], full.values[name]
        margin = POINTS if mine.numbers.dtype == bool else 0.0
        told_of = f"{_about(name)} {before}"
        values, better = (mine.numbers, its.numbers), _better(name)
        yield line(f"{name}, {end}", mine.groups, *values, better=better, about=told_of, margin=margin)
    for figure, its_own in zip((*ours, row.seconds), (*theirs, full.seconds), strict=True):
        change = difference(its_own, figure) if figure is not row.seconds else None
        better = _better(figure.name)
        yield Line(figure, its_own, change, better, f"{_about(figure.name)} {before}").named(f"{figure.name}, {end}")


def _of_negatives(bench: Bench, usual: Way, denied: Sequence[Negated]) -> Iterator[Line]:
    """The student with a little guidance, after, against its teacher with as little, before."""
    last = {one.way.side.name: one for one in denied}  # of each: with a little guidance, where it can be had
    student = last.pop(usual.side.name, None)
    teacher = next(iter(last.values()), None)
    if teacher is None or student is None:
        return
    scales = [f"{one.way.side.guidance:g}" for one in (student, teacher)]
    end = f"Student in {told(usual.steps)}, guidance {scales[0]}; teacher's guidance {scales[1]}."
    pairs = zip(*(one.figures(bench.network.name) for one in (student, teacher)), strict=True)
    for after, before in pairs:
        yield Line(after, before, difference(before, after), _better(after.name), f"{_about(after.name)} {end}")


def _about(name: str) -> str:
    return next(about for start, about in TOLD.items() if name.startswith(start))


def _better(name: str) -> Direction:
    return next((better for start, better in BETTER.items() if name.startswith(start)), "higher")


def _figure(name: str, values: Values) -> Figure:
    return (share if values.numbers.dtype == bool else mean)(values.numbers, name, values.groups)


# -- the page ----------------------------------------------------------------------------------------------------------


def _table(rows: Sequence[Row], sets: dict[str, list[Figure]]) -> Table:
    """A row for each way of drawing."""
    names = aspects(rows)
    body: list[tuple[str | Figure, ...]] = []
    for row in rows:
        cells: list[str | Figure] = [row.way.name, *(_figure(name, row.values[name]) for name in names)]
        body.append((*cells, *sets[row.way.name], row.seconds))
    head = ("", *names, *(figure.name for figure in sets[rows[0].way.name]), "seconds a picture")
    note = "The same prompts and seeds in every row. Precision and recall are against the last row, at other seeds."
    return Table("In how many steps", head, tuple(body), note)


def _negatives(bench: Bench, denied: Sequence[Negated]) -> Iterator[Table]:
    if not denied:
        return
    found = [(one, tuple(one.figures(bench.network.name))) for one in denied]
    rows: list[tuple[str | Figure, ...]] = [
        (one.way.name, f"{one.way.side.guidance:g}", *figures) for one, figures in found
    ]
    head = ("", "guidance", *(figure.name for figure in found[0][1]))
    note = "At guidance 1 a negative prompt cannot do anything: what it would lead away from is never predicted."
    yield Table("What negative prompts do", head, tuple(rows), note)


def _grid(prompts: Sequence[str], rows: Sequence[Row]) -> Grid:
    """A picture of some prompts, in every way."""
    columns = tuple(row.way.name for row in rows)
    body = tuple((text, tuple(row.shown[i] for row in rows)) for i, text in enumerate(some(prompts)))
    return Grid("At the same seeds", columns, body, "The first picture of each prompt that is shown.")


def _notes(bench: Bench, real: np.ndarray | None, denied: Sequence[Negated]) -> Iterator[str]:
    if manner_of(bench.judged) is None:
        yield "No file says that it was distilled: all adapters together are the student, drawn as LCM's are."
    if real is None:
        yield "There are no real pictures to measure a distance from; name a folder of them by --images."
    if is_told(bench, sides(bench)[0].base):
        yield "The student is told its guidance and draws in one pass: no negative prompt can do anything to it."
    if not denied:
        yield "Nothing was asked of negative prompts: there was no background that both judges saw."
