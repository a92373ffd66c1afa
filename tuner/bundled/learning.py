"""The page of what a LoRA learns of subjects that the base never saw, by the suite that judges every LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from ..commands.show import Show, Silent
from ..config import build
from ..evaluation.bench import Bench, Judged
from ..evaluation.report import Report
from ..evaluation.request import Config
from ..evaluation.sheet import grid
from ..evaluation.statistics import Figure
from ..evaluation.suites import subject as suite
from ..models.latent_diffusion import recommended
from ..places import place
from ..recipe import load_recipe, recipe_class
from ..run import Run
from ..training.job import run_recipe
from .pages import page, table

SUBJECTS = ("teddy bear", "owl", "fox", "tractor", "pineapple", "snowman")


def of_lora(base: str, subjects: Sequence[str], count: int, out: Path, runs: Path) -> str:
    """Train a LoRA of each subject from its ready-made folder, with the command's defaults; judge before and after."""
    rows, sheets, seconds = {}, [], {}
    report: Report | None = None
    for name in subjects:
        run, seconds[name] = _trained(name, base, runs)
        report = _judged(run, base, count)
        rows[name] = {line.figure.name: line for line in report.lines}
        sheets += [report.grids[0].rows[0][1], report.grids[0].rows[5][1]]
    assert report is not None
    named = ("subject recognised", "likeness-judge", "variety-judge", "background right", "others: subject right")
    body = [
        (name, *(_change(found[figure].before, found[figure].figure) for figure in named), f"{seconds[name]:.0f} s")
        for name, found in rows.items()
    ]
    means = [
        " → ".join(_plain(fmean(f.value for f in figures), figures[0]) for figures in zip(*pairs, strict=True))
        for pairs in ([(f[n].before, f[n].figure) for f in rows.values()] for n in named)
    ]
    text = (
        f"{count} pictures of each of 12 prompts a subject, at the same seeds before and after (before → after), and "
        "one of each prompt of another subject. Recognised, and right, is what both judges see.\n\n"
    )
    text += table(("subject", *named, "training"), [*body, ("mean", *means, f"{fmean(seconds.values()):.0f} s")])
    sheet = grid([list(row) for row in sheets], [f"{name}, {i} of 2" for name in subjects for i in (1, 2)], cell=96)
    return page(out, "lora", "LoRA on held-out subjects", "lora-figures", text, sheet, "before and after")


def _change(before: Figure | None, after: Figure) -> str:
    assert before is not None
    return f"{_plain(before.value, before)} → {_plain(after.value, after)}"


def _plain(value: float, figure: Figure) -> str:
    return f"{100 * value:.0f}%" if figure.unit == "share" else f"{value:.2f}"


def _judged(run: Run, base: str, count: int) -> Report:
    """The report that `tuner evaluate RUN` would write."""
    config = build(Config, {**recommended(base, "evaluate"), "count": count, "run": [str(run.folder)]})
    judged = Judged(run.name, base, [(run.folder / f"{run.name}.safetensors", 1.0)], run.values, run.folder)
    return suite.evaluate(Bench("subject", judged, config, Silent()))


def _trained(name: str, base: str, runs: Path) -> tuple[Run, float]:
    """The run of a subject, trained now or before, and the seconds of its steps."""
    kind = recipe_class(load_recipe(place("recipes") / "lora.py"))
    folder = runs / name.replace(" ", "_")
    images = place("datasets") / folder.name
    values = {"base": base, "images": str(images), "out": str(folder), "resume": folder.exists()}
    run = run_recipe(kind, build(kind.Config, {**recommended(base, "lora"), **values}), "lora", Show())
    run.close()
    return run, sum(row["seconds"] for row in run.metrics())
