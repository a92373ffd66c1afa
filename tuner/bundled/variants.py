"""Other ways to distil than the usual one, each unlike it in one thing: whether they measure better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..evaluation.few import told
from ..evaluation.report import Report, Stored
from ..evaluation.request import Config
from ..evaluation.results import results
from ..evaluation.suites.few_step import Held
from .kept import kept
from .learning import trained
from .pages import table
from .students import cells_of, rows_of, side_by_side

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "guidance of 4": {"guidance_min": 4.0, "guidance_max": 4.0},
    "guidance of 2 to 4": {"guidance_min": 2.0, "guidance_max": 4.0},
    "without an average": {"ema": 0.0},
    "squared distance": {"loss": "l2"},
    "4 phases of 10 steps": {"phases": 4, "teacher_steps": 40},
}
STEPS = (2, 4)  # in which they are judged


def tried(
    base: str, usual: Stored, words: Sequence[str], held: Callable[[], Held], config: Config, out: Path, work: Path,
    steps: int = 0,
) -> str:  # fmt: skip
    """A table of all of them, beside the usual one; Markdown. What `out` holds is not measured again.

    Args:
        usual: of the student of prompts alone. words: these prompts.
        held: what all are held against. config: how the usual one was judged.
        steps: of every training, in the stead of the base's own; 0 is those.
    """
    few = config.model_copy(update={"few": list(STEPS)})
    rows = [("as it is", *row) for row in _rows(usual)]
    for name, values in VARIANTS.items():
        slug = name.replace(" ", "-")
        asked = {"base": base, "prompt": list(words), "steps": steps, "pictures": len(few.other) * few.count, **values}
        measure = partial(_measured, base, work / slug, {"prompt": words, **values}, few, held, steps)
        rows += [(name, *row) for row in kept(out / f"{slug}.json", asked, {"rows": measure})["rows"]]
    head = usual.tables[0].head[1:]
    about = (
        "On prompts alone, with the same seeds and as many steps of training, each unlike the command as it is in what "
        "it is called after; phases are drawn by DDIM.\n\n"
    )
    told_of = [i for i, name in enumerate(head) if name != "seconds a picture"]  # these were not taken side by side
    return about + table(
        ("tried", "drawn in", *(head[i] for i in told_of)),
        [(who, steps, *(cells[i] for i in told_of)) for who, steps, *cells in rows],
    )


def _measured(
    base: str, folder: Path, values: Mapping[str, Any], few: Config, held: Callable[[], Held], steps: int
) -> list[list[str]]:
    run = trained("distill-lcm", base, folder, values, steps)
    report = side_by_side(base, {run.name: results(run.folder, run.name).adapters[0]}, few, held())[run.name]
    return _rows(report)


def _rows(report: Report | Stored) -> list[list[str]]:
    """Of a student, in so many steps."""
    known = {who: cells_of(cells) for who, cells in rows_of(report) if who.startswith("student")}
    return [[told(n), *known[f"student, {told(n)}"]] for n in STEPS]
