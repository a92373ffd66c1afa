"""How closely a control network draws after conditions that it was not trained on, and what that costs the prompts.

Conditions are taken from unseen pictures. From what is drawn with their captions, with the network and without it at
the same seeds, the condition is extracted again and held against what was asked for (`conditions`). How near it can
come is what the base's autoencoder leaves of it in the unseen pictures themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ...data.conditions import computed
from ..bench import Bench
from ..conditions import ABOUT, BETTER, measured
from ..evidence import judged, line, texts
from ..report import Grid, Line, Report, Table
from ..statistics import Figure
from ..steered import Example, as_picture, condition_of, drawn, examples_of, rebuilt

SHOWN = 24  # rows of pictures
COLUMNS = "picture", "asked for", "without control", "with control", "found in it"
Pictures = Sequence[Image.Image]


def evaluate(bench: Bench) -> Report:
    """Draw after unseen conditions with the control network and without; extract them again, compare and judge.

    Raises:
        RequestError: there is no control network, nothing says what it draws after, or there are no pictures.
    """
    how, seed = condition_of(bench), bench.config.seed
    examples = examples_of(bench, how)
    after, before = drawn(bench, examples, steered=True), drawn(bench, examples, steered=False)
    lines = _lines(bench, how, examples, after, before)
    ceiling = _lines(bench, how, examples, rebuilt(bench, examples))
    settings = {"condition": how, "conditions": len(examples), "seeds": f"{seed} to {seed + len(after) - 1}"}
    grid, notes = _grid(how, examples, after, before), _notes(bench, how, examples)
    return bench.report(lines, [_table(lines, ceiling)], [grid], notes, settings)


def _table(lines: Sequence[Line], ceiling: Sequence[Line]) -> Table:
    """With control, without, and what could be had."""
    rows: list[tuple[str | Figure, ...]] = [
        ("with control", *(one.figure for one in lines)),
        ("without control", *(one.before for one in lines if one.before)),
        ("the pictures, rebuilt", *(one.figure for one in ceiling)),
    ]
    note = "Rebuilt: the unseen pictures themselves through the base's autoencoder and back, the most that can be had."
    return Table("What is drawn, and what could be", ("", *(one.figure.name for one in lines)), tuple(rows), note)


def _lines(
    bench: Bench, how: str, examples: Sequence[Example], after: Pictures, before: Pictures | None = None
) -> list[Line]:
    """How near conditions come, and what judges see of the captions, of as many pictures of each example."""
    many = [one for one in examples for _ in range(len(after) // len(examples))]
    sets = [pictures for pictures in (after, before) if pictures is not None]
    asked, names = [one.condition for one in many], [one.name for one in many]
    values = [measured(asked, [computed(how, picture) for picture in pictures]) for pictures in sets]
    found = [
        line(f"{name} of {how}", names, *(part[name] for part in values), better=BETTER[name], about=ABOUT[name])
        for name in values[0]
    ]
    captions = [one.caption for one in many]
    if not all(captions):
        return found
    return [*found, *judged(bench, captions, after, before), *texts(bench, captions, after, before)]


def _grid(how: str, examples: Sequence[Example], after: Pictures, before: Pictures) -> Grid:
    """The first picture of each example, and of many examples some, evenly taken."""
    count, step = len(after) // len(examples), max(1, -(-len(examples) // SHOWN))
    rows = []
    for i in range(0, len(examples), step):
        one, made = examples[i], after[i * count]
        pictures = (one.picture, one.shown, before[i * count], made, as_picture(computed(how, made)))
        rows.append((one.caption or one.name, pictures))
    note = f"Every {step}th condition of {len(examples)}, taken by its number alone." if step > 1 else "All conditions."
    return Grid(f"Drawn after {how}", COLUMNS, tuple(rows), note)


def _notes(bench: Bench, how: str, examples: Sequence[Example]) -> list[str]:
    found = []
    trained_on = bench.judged.values.get("images")
    if bench.config.images and trained_on and Path(bench.config.images).resolve() == Path(trained_on).resolve():
        found.append("These pictures were trained on: name others to see what was learned and not what was kept.")
    if not all(one.caption for one in examples):
        found.append("Not all pictures have captions: what judges see of these was not asked for.")
    empty = sum(not one.condition.any() for one in examples)
    if empty:
        found.append(f"Of {empty} of {len(examples)} pictures the condition ({how}) is black all over.")
    return found
