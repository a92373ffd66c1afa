"""Pages of what is learned of subjects that the base never saw, by the suite that judges every such run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image

from ..adapters.embeddings import Embedding
from ..commands.evaluate import report_of
from ..commands.recipes import recipe_file
from ..commands.show import Show
from ..config import build
from ..evaluation.report import Line, Report
from ..evaluation.request import Config
from ..evaluation.sheet import grid
from ..evaluation.statistics import Figure
from ..models.latent_diffusion import LatentDiffusion, recommended
from ..models.words import teach
from ..places import place
from ..recipe import load_recipe, recipe_class
from ..run import Run
from ..sampling.shots import Shot
from ..training.job import run_recipe
from .pages import BATCH, page, plain, table

SUBJECTS = ("teddy bear", "owl", "fox", "tractor", "pineapple", "snowman")
RESEMBLES = {
    "teddy bear": "panda", "owl": "penguin", "fox": "dog", "tractor": "car", "pineapple": "cactus", "snowman": "ghost",
}  # fmt: skip
"""What a base knows that looks a little like a subject: where its word begins."""
BACKGROUNDS = 8  # prompts of a token's page: 8 x 4 are 32 pictures a subject


@dataclass(frozen=True)
class Lesson:
    """A subject that was learned: the run, and what the suite says of it."""

    name: str
    run: Run
    report: Report

    @property
    def lines(self) -> dict[str, Line]:
        return {line.figure.name: line for line in self.report.lines}

    @property
    def seconds(self) -> float:
        """Of the steps alone."""
        return seconds_of(self.run)


def of_lora(base: str, subjects: Sequence[str], count: int, out: Path, runs: Path, steps: int = 0) -> str:
    """Train a LoRA of each subject from its ready-made folder, with the command's defaults; judge before and after."""
    drawings = dict[Shot, Image.Image]()
    lessons = [_lesson(name, lora(base, name, runs, steps), base, {"count": count}, drawings) for name in subjects]
    named = ("subject recognised", "likeness-judge", "variety-judge", "background right", "others: subject right")
    text = (
        f"{count} pictures of each of {len(lessons[0].report.grids[0].rows)} prompts a subject, at the same seeds "
        "before and after (before → after), and one of each prompt of another subject. Recognised, and right, is what "
        "both judges see.\n\n"
    )
    text += _table(lessons, named)
    return page(out, "lora", "LoRA on held-out subjects", "lora-figures", text, _sheet(lessons), "before and after")


def of_tokens(base: str, subjects: Sequence[str], count: int, out: Path, runs: Path, steps: int = 0) -> str:
    """Teach a word for each subject, with the command's defaults; judge it against what it began from."""
    prompts = recommended(base, "evaluate").get("prompt", [])[:BACKGROUNDS]
    asked = {"count": count} | ({"prompt": prompts} if prompts else {})
    drawings = dict[Shot, Image.Image]()
    lessons = [_lesson(name, token(base, name, runs, steps), base, asked, drawings) for name in subjects]
    named = ("subject recognised", "likeness-judge", "variety-judge", "background right")
    values = lessons[0].run.values
    text = (
        f"{count} pictures of each of {len(lessons[0].report.grids[0].rows)} prompts a subject, at the same seeds "
        "before and after (before → after). Before, a token is the words that it began as. Recognised is what both "
        "judges see, and right the background that the prompt asks for. Other rows: those of the base's own words that "
        f"are the same, bit for bit, with the token. Vectors a token: {values['vectors']}; {values['steps']} steps of "
        f"{values['batch_size']} pictures, learning rate {values['learning_rate']:g}.\n\n"
    )
    kept = {lesson.name: _kept(base, lesson.run) for lesson in lessons}
    more = {"began as": lambda one: one.run.values["init"], "other rows unchanged": lambda one: kept[one.name]}
    text += _table(lessons, named, more)
    sheet, title = _sheet(lessons), "Tokens of held-out subjects"
    return page(out, "textual-inversion", title, "token-figures", text, sheet, "before and after")


# -- runs --------------------------------------------------------------------------------------------------------------


def lora(base: str, name: str, runs: Path, steps: int = 0) -> Run:
    """A LoRA of a subject."""
    return trained("lora", base, runs / _slug(name), {"images": str(place("datasets") / _slug(name))}, steps)


def token(base: str, name: str, runs: Path, steps: int = 0) -> Run:
    """A token of a subject."""
    values = {"images": str(place("datasets") / _slug(name)), "init": RESEMBLES.get(name, "")}
    return trained("textual-inversion", base, runs / f"token_{_slug(name)}", values, steps)


def trained(command: str, base: str, folder: Path, values: Mapping[str, Any], steps: int = 0) -> Run:
    """The run of a command with the base's own defaults, trained now, or before in this folder.

    Args:
        steps: in the stead of the base's, or the command's; 0 is those.
    """
    kind = recipe_class(load_recipe(recipe_file(place("recipes"), command)))
    begun = (folder / "config.toml").is_file()
    asked = {**values, **({"steps": steps} if steps else {})}
    given = {**kind.usual(asked, recommended(base, command)), **asked}
    given = {key: value for key, value in given.items() if key in kind.Config.model_fields}
    config = build(kind.Config, {**given, "base": base, "out": str(folder), "resume": begun})
    run = run_recipe(kind, config, command, Show())
    run.close()
    return run


def seconds_of(run: Run) -> float:
    """Of the steps of a run."""
    return sum(row["seconds"] for row in run.metrics())


def judged(base: str, values: Mapping[str, Any], drawings: dict[Shot, Image.Image] | None = None) -> Report:
    """The report that `tuner evaluate` would write, by the bundled judges; `drawings` as in `Bench`."""
    own = {**recommended(base, "evaluate"), "world": True, "batch_size": BATCH}
    return report_of(build(Config, {**own, **values}), drawings)


def _slug(name: str) -> str:
    return name.replace(" ", "_")


def _lesson(name: str, run: Run, base: str, values: Mapping[str, Any], drawings: dict[Shot, Image.Image]) -> Lesson:
    return Lesson(name, run, judged(base, {**values, "run": [str(run.folder)]}, drawings))


def _kept(base: str, run: Run) -> str:
    """Of how many rows of the base's embedding tables how many are the same, bit for bit, beside the token."""
    plain, taught = LatentDiffusion.load(base), LatentDiffusion.load(base)
    teach(taught, Embedding.load(run.folder / f"{run.name}.safetensors").word)
    same = total = 0
    for before, after in zip(plain.text_encoders, taught.text_encoders, strict=True):
        rows = before.get_input_embeddings().weight
        found = after.get_input_embeddings()(torch.arange(len(rows)))
        same, total = same + int((rows == found).all(dim=1).sum()), total + len(rows)
    return f"{same} of {total}"


# -- the page ----------------------------------------------------------------------------------------------------------


def _table(
    lessons: Sequence[Lesson], named: Sequence[str], more: Mapping[str, Callable[[Lesson], str]] | None = None
) -> str:
    """A row a subject and one of their means; `more` columns hold words."""
    more, found = more or {}, [name for name in named if name in lessons[0].lines]
    body = [
        (one.name, *(_change(one.lines[name]) for name in found), *(of(one) for of in more.values()),
         f"{one.seconds:.0f} s")
        for one in lessons
    ]  # fmt: skip
    means = (_mean([one.lines[name] for one in lessons]) for name in found)
    body.append(("mean", *means, *("" for _ in more), f"{fmean(one.seconds for one in lessons):.0f} s"))
    return table(("subject", *found, *more, "training"), body)


def _change(line: Line) -> str:
    assert line.before is not None
    return f"{plain(line.before)} → {plain(line.figure)}"


def _mean(lines: Sequence[Line]) -> str:
    def of(figures: Sequence[Figure | None]) -> str:
        known = [figure for figure in figures if figure is not None]
        return plain(known[0], fmean(figure.value for figure in known))

    return f"{of([line.before for line in lines])} → {of([line.figure for line in lines])}"


def _sheet(lessons: Sequence[Lesson]) -> Image.Image:
    """Of each subject two prompts, before and after."""
    rows, words = list[list[Image.Image]](), list[str]()
    for one in lessons:
        shown = one.report.grids[0].rows
        for number, (_, pictures) in enumerate((shown[0], shown[min(5, len(shown) - 1)]), 1):
            rows.append(list(pictures))
            words.append(f"{one.name}, {number} of 2")
    half = len(rows[0]) // 2
    return grid(rows, words, [*(["before"] + [""] * (half - 1)), "after"], cell=96)
