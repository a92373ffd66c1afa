"""Students of one base, which draw in few steps: what they are judged by, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..commands.show import Silent
from ..config import build
from ..evaluation.bench import Bench, Judged
from ..evaluation.report import Report, Stored
from ..evaluation.request import Config
from ..evaluation.statistics import Figure
from ..evaluation.suites.few_step import Held, evaluate, held_against
from ..models.latent_diffusion import recommended
from . import world
from .figures import known_to, singles
from .pages import BATCH, cell

FEW, TEACHER = (1, 2, 4, 8), 25  # steps of the student and of the teacher


def prompts_for(base: str) -> list[str]:
    """One of each subject that the base knows: those that it is evaluated by."""
    own = recommended(base, "evaluate").get("other")
    return list(own or [world.caption(it) for it in singles(known_to(base), 1)])


def judging(base: str, count: int) -> Config:
    """How students of a base are judged: by so many pictures a row, two of a prompt at the least."""
    prompts = prompts_for(base)
    each = max(2, round(count / len(prompts)))
    number = max(1, min(len(prompts), count // each))
    some = [prompts[i * len(prompts) // number] for i in range(number)]
    own = {"world": True, "base": base, "batch_size": BATCH, "count": each, "few": list(FEW), "teacher_steps": TEACHER}
    return build(Config, {**recommended(base, "evaluate"), **own, "prompt": [], "other": some})


def bench_of(base: str, name: str, file: Path, config: Config) -> Bench:
    """Where a student of a base is judged."""
    return Bench("few-step", Judged(name, base, [(file, 1.0)]), config, Silent())


def side_by_side(base: str, files: Mapping[str, Path], config: Config, held: Held | None = None) -> dict[str, Report]:
    """Reports of several students of one base, its own pictures drawn once, or `held` before."""
    benches = {name: bench_of(base, name, file, config) for name, file in files.items()}
    held = held or held_against(next(iter(benches.values())))
    return {name: evaluate(bench, held) for name, bench in benches.items()}


def rows_of(report: Report | Stored, place: int = 0) -> list[tuple[str, list[str | Figure]]]:
    """The rows of one of the tables of a report."""
    return [(str(name), list(cells)) for name, *cells in report.tables[place].rows]


def cells_of(cells: Sequence[str | Figure]) -> list[str]:
    return [cell(it) if isinstance(it, Figure) else it for it in cells]
