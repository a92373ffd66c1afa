"""The page of concept ablation: every method on the same targets, judged by the same suite at the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..evaluation.report import save
from ..evaluation.sheet import grid
from ..evaluation.stored import Stored, StoredLine, load
from ..run import Run
from ..sampling.shots import Shot
from .kept import keep_strip, kept, kept_strip
from .learning import judged, seconds_of, trained
from .mixture import PLANTED
from .pages import page, table

QUICK = {"steps": 8}  # of fifty thousand pictures: subjects, backgrounds and styles come out as right as in 12
OURS = "default"
METHODS: Mapping[str, Mapping[str, Any]] = {
    OURS: {},
    "model": {"learning_rate": 2e-4},
    "noise": {"learning_rate": 2e-4},
    "esd": {"learning_rate": 1e-4, "batch_size": 2, "steps": 150},
    "uce": {},
}
"""Each method with what measured best for it on this base: the papers' learning rates are for a larger one."""


@dataclass(frozen=True)
class Case:
    """A target, what stands in its place, of what kind it is, and what else is taken out with it."""

    target: str
    anchor: str
    kind: str = "instance"
    beside: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        several = f"{len(self.targets)}-targets"
        return several if self.beside else self.target.replace(" ", "-")[:40]

    @property
    def targets(self) -> list[str]:
        return [self.target, *(target for target, _ in self.beside)]

    @property
    def anchors(self) -> list[str]:
        return [self.anchor, *(anchor for _, anchor in self.beside)]


CASES = (
    Case("grumpy cat", "cat"), Case("crying cat", "cat"), Case("police car", "car"), Case("taxi", "car"),
    Case("pizza", "hamburger"), Case("robot", "dog"), Case("rocket", "airplane"), Case("rose", "tulip"),
    Case("watercolor", "photo", "style"), Case("neon", "photo", "style"),
    Case(PLANTED[0].words, "a robot left of a rose", "memorised"),
    Case(PLANTED[1].words, "a lion below a balloon", "memorised"),
)  # fmt: skip
"""Names that share a word with what stands in their place, names that share none, styles, memorised pictures."""

SHOWN = ("grumpy cat", "pizza", "rocket", "neon", PLANTED[0].words)  # whose pictures the page has

_FIVE = (("police car", "car"), ("pizza", "hamburger"), ("robot", "dog"), ("rose", "tulip"))
_TEN = (("crying cat", "cat"), ("taxi", "car"), ("rocket", "airplane"), ("banana", "lemon"), ("guitar", "umbrella"))
SEVERAL = tuple(Case("grumpy cat", "cat", beside=beside) for beside in (_FIVE, _FIVE + _TEN))
"""Five at once, and ten."""

FIGURES = {
    "target": ("target present",), "other ways": ("target present otherwise",), "anchor": ("anchor instead",),
    "anchor kept": ("anchor: subject right", "anchor: relation right"),
    "neighbours": ("neighbours: style right", "neighbours: subject right"), "others": ("others: subject right",),
    "of these not named": ("others not named: subject right",), "KID": ("KID-judge",),
}  # fmt: skip
"""Column -> the suite's figure, the first that there is."""
KEPT = ("anchor kept", "neighbours", "others", "of these not named")  # told as a share of what it was before


@dataclass(frozen=True)
class Outcome:
    """What a method made of a case.

    Attributes:
        figures: of each of the columns of `FIGURES`; None where there is none.
        worst: the neighbour that lost most. seconds: of the steps of the training.
    """

    figures: Mapping[str, float | None]
    worst: str
    seconds: float

    def value(self, column: str) -> float:
        known = self.figures[column]
        return float("nan") if known is None else known

    @property
    def harmonic(self) -> float:
        """The harmonic mean of: target gone, gone in other ways, anchor kept, neighbours kept, others kept."""
        gone = [1 - self.value(column) for column in ("target", "other ways")]
        known = [part for part in (*gone, *map(self.value, KEPT[:3])) if part == part]
        return len(known) / sum(1 / max(part, 1e-3) for part in known)


def of_ablation(
    base: str, cases: Sequence[Case], several: Sequence[Case], methods: Mapping[str, Mapping[str, Any]], pictures: int,
    out: Path, runs: Path, steps: int = 0,
) -> str:  # fmt: skip
    """Take every case out by every method, judge, and write out/ablation.md and .png; the text.

    `several` are taken out by our own method alone.
    Figures that out/ablation holds are not measured again, nor are runs that are there, so that the command goes on
    where it was stopped.
    """
    drawings = dict[Shot, Image.Image]()  # before: the same for all methods, and of much for all cases
    ask = partial(_outcomes, base, pictures=pictures, kept_in=out / "ablation", runs=runs, steps=steps,
                  drawings=drawings)  # fmt: skip
    found = ask(cases, methods)
    own = {name: more for name, more in methods.items() if name == OURS}
    together = ask(several if own else (), own)
    text = (
        f"{len(cases)} targets, each taken out by each method: about {pictures} pictures of the target's prompts, "
        "half as many of other ways to ask for it, a quarter as many of each of its five nearest neighbours, one of"
        f" each prompt of everything else; before and after at the same seeds, in {QUICK['steps']} steps. Target and"
        " other ways: share of the pictures in which any judge sees it still. Half of the target's prompts are such"
        " as the methods train on (of a memorised picture its caption, the only one), none of the other ways is. "
        "Anchor: in which both see what stands in its place; where they cannot be trusted with a name, such as "
        "`cat`, that is what a picture is nearest to of all that the base drew. Kept is what both judges still find"
        " right, as a share of what it was before: the anchor asked for by its own name (not where judges cannot be"
        " trusted with it), the neighbours (what the target's name names, then what the base's text encoder takes "
        "to be most like it; other styles of a style), all other things, and those of them that the method was not "
        f"told by name to keep: {OURS} and uce are told the prompts that the base brings (`--retain`), and beside a "
        "style the usual names of others, all its neighbours among them. KID: how much further other things are "
        "from the base's own pictures of them at other seeds. Harmonic: the harmonic mean of target gone, gone in "
        "other ways, anchor kept, neighbours and others, with the 95% interval of drawing the targets again; ahead:"
        f" by how many points {OURS} is ahead, target by target. "
        f"Training: of the steps alone, beside other jobs. {_settings(methods)}\n\n"
    )
    text += _summary(found, cases, methods) + "\n"
    if together:
        text += "## Several at once\n\n" + _together(found, together) + "\n"
    text += "## Each target\n\n" + _details(found)
    drawn = [case for case in cases if case.target in SHOWN] or cases
    strips = {f"{case.target}, {label}": kept_strip(_strip(out / "ablation", case, label))
              for case in drawn for label in ("before", *methods)}  # fmt: skip
    rows = {label: pictures for label, pictures in strips.items() if pictures}
    sheet = grid(list(rows.values()), list(rows), cell=64)
    return page(out, "ablation", "Concept ablation", "ablation-figures", text, sheet, "before and after, by method")


def _outcomes(
    base: str, cases: Sequence[Case], methods: Mapping[str, Mapping[str, Any]], *, pictures: int, kept_in: Path,
    runs: Path, steps: int, drawings: dict[Shot, Image.Image],
) -> dict[tuple[Case, str], Outcome]:  # fmt: skip
    found = dict[tuple[Case, str], Outcome]()
    for case in cases:
        for name, more in methods.items():
            asked = {"base": base, "targets": case.targets, "anchors": case.anchors, "method": name, **more,
                     "pictures": pictures, "drawn in": QUICK["steps"], "trained for": steps}  # fmt: skip
            measure = partial(_measured, base, case, name, dict(more), pictures, kept_in, runs, steps, drawings)
            known = kept(kept_in / f"{case.name}_{name}.json", asked, {"outcome": measure})
            found[case, name] = Outcome(**known["outcome"])
    return found


def run_of(base: str, case: Case, method: str, more: Mapping[str, Any], runs: Path, steps: int = 0) -> Run:
    """A case taken out by a method."""
    asked = {"target": case.targets, "anchor": case.anchors, "kind": case.kind, "method": method, "samples": 0,
             "force": True}  # fmt: skip
    steps = 0 if method == "uce" else steps
    return trained("ablate", base, runs / f"{case.name}_{method}", {**asked, **more}, steps)


def _measured(
    base: str, case: Case, method: str, more: Mapping[str, Any], pictures: int, kept_in: Path, runs: Path, steps: int,
    drawings: dict[Shot, Image.Image],
) -> dict[str, Any]:  # fmt: skip
    """The fields of an `Outcome`; what the page shows is left beside."""
    run = run_of(base, case, method, more, runs, steps)
    own = {"instance": 12, "style": 10, "memorised": 1}[case.kind]  # prompts of a target
    asked = {**QUICK, "run": [str(run.folder)], "count": -(-pictures // own)}
    save(judged(base, asked, drawings), run.folder / "report")
    report = load(run.folder / "report")
    if case.target in SHOWN and not case.beside:
        for label, place in (("before", 0), (method, 1)):
            keep_strip(_strip(kept_in, case, label), _first(report, place))
    known = {line.name: line for line in report.figures}
    figures = {column: _figure(column, [known[name] for name in names if name in known])
               for column, names in FIGURES.items()}  # fmt: skip
    return {"figures": figures, "worst": _worst(report), "seconds": round(seconds_of(run), 1)}


def _figure(column: str, lines: Sequence[StoredLine]) -> float | None:
    """What a column tells of the first of its lines."""
    if not lines or lines[0].before is None:
        return None
    after, before = lines[0].after.value, lines[0].before.value
    if column in KEPT:
        return min(1.0, after / before) if before else None
    return after - before if column == "KID" else after


def _summary(
    found: Mapping[tuple[Case, str], Outcome], cases: Sequence[Case], methods: Mapping[str, Mapping[str, Any]]
) -> str:
    rows = []
    for name in methods:
        its = [found[case, name] for case in cases]
        values = [_mean([one.value(column) for one in its]) for column in FIGURES]
        harmonic = [one.harmonic for one in its]
        ahead = [found[case, OURS].harmonic - one for case, one in zip(cases, harmonic, strict=True)
                 if name != OURS and OURS in methods]  # fmt: skip
        seconds = f"{_mean([one.seconds for one in its]):.0f} s"
        rows.append((name, *map(_written, FIGURES, values), _points(harmonic), _points(ahead), seconds))
    return table(("method", *FIGURES, "harmonic", "ahead", "training"), rows)


def _points(values: Sequence[float]) -> str:
    """The mean of a value for each target in hundredths, with the 95% interval of drawing the targets again."""
    if not values:
        return ""
    numbers, rng = 100 * np.array(values), np.random.default_rng(0)
    again = numbers[rng.integers(len(numbers), size=(2000, len(numbers)))].mean(axis=1)
    low, high = np.percentile(again, [2.5, 97.5])
    return f"{numbers.mean():.1f} ({low:.1f} to {high:.1f})"


def _settings(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """With what options the methods were run that are not the command's own."""
    said = (f"{name} {', '.join(f'{key} {value:g}' for key, value in more.items())}"
            for name, more in methods.items() if more)  # fmt: skip
    told = "; ".join(said)
    return f"Baselines have what measured best for them on this base: {told}." if told else ""


def _together(found: Mapping[tuple[Case, str], Outcome], together: Mapping[tuple[Case, str], Outcome]) -> str:
    """One at a time, in the mean of those that are things, and several at once."""
    alone = [one for (case, name), one in found.items() if name == OURS and case.kind == "instance"]
    rows = [("1, in the mean", *(_written(column, _mean([one.value(column) for one in alone])) for column in FIGURES),
             f"{100 * _mean([one.harmonic for one in alone]):.1f}")]  # fmt: skip
    for (case, _), one in together.items():
        values = (_written(column, one.value(column)) for column in FIGURES)
        rows.append((str(len(case.targets)), *values, f"{100 * one.harmonic:.1f}"))
    return table((f"targets at once, {OURS}", *FIGURES, "harmonic"), rows)


def _details(found: Mapping[tuple[Case, str], Outcome]) -> str:
    rows = [
        (f"{case.target} → {case.anchor}", name, *(_written(column, one.value(column)) for column in FIGURES),
         f"{100 * one.harmonic:.1f}", one.worst)
        for (case, name), one in found.items()
    ]  # fmt: skip
    return table(("target", "method", *FIGURES, "harmonic", "worst neighbour"), rows)


def _written(column: str, value: float) -> str:
    if value != value:
        return ""
    return f"{value:.3f}" if column == "KID" else f"{100 * value:.1f}%"


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else float("nan")


def _worst(report: Stored) -> str:
    """The neighbour that lost most."""
    rows = next((one.rows for one in report.tables if one.title == "Its nearest neighbours"), ())
    if not rows:
        return ""
    name, before, after = rows[0]
    assert not isinstance(before, str) and not isinstance(after, str)
    return f"{name}: {100 * before.value:.0f}% → {100 * after.value:.0f}%"


def _first(report: Stored, place: int) -> list[Image.Image]:
    """Of the target's prompts the first picture each, before (0) or after (1)."""
    grids = [row.pictures for row in report.grids[0].rows]
    half = len(grids[0]) // 2
    names = [pictures[k + place * half] for k in range(half) for pictures in grids][:10]
    return [picture for name in names if (picture := report.picture(name)) is not None]


def _strip(folder: Path, case: Case, label: str) -> Path:
    return folder / f"{case.name}_{label}.webp"
