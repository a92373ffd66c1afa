"""The page of drawing in few steps: the base, distilled on pictures and on prompts alone, against itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from PIL import Image

from ..evaluation.few import told
from ..evaluation.report import Stored, load, save
from ..evaluation.request import Config
from ..evaluation.results import results
from ..evaluation.sheet import PAPER, grid
from ..evaluation.statistics import Figure
from ..evaluation.suites.few_step import Held, held_against
from ..models.latent_diffusion import recommended
from ..run import Run
from .charts import Chart, charts
from .figures import known_to
from .folders import write_world
from .kept import kept
from .learning import seconds_of, trained
from .pages import page, table
from .stacked import stacked
from .students import TEACHER, bench_of, cells_of, judging, prompts_for, rows_of, side_by_side
from .variants import tried

COMMAND, SEED = "distill-lcm", 9002  # of the scenes that are distilled on
SHOWN = 8  # columns of pictures
CURVES = ("subject right", "KID-judge", "recall-judge", "diversity-judge")


def of_few_steps(base: str, scenes: int, count: int, out: Path, work: Path, runs: Path, steps: int = 0) -> str:
    """Distil on scenes and on prompts alone, judge; write out/distill-lcm.md and out/distill-lcm.png; the text.

    Args:
        scenes: to distil on.
        count: pictures a row, about.
        work: folder of the scenes and the runs, which are gone on with.
        runs: folder of the runs of other pages, which are used again.
        steps: of every training, in the stead of the base's own; 0 is those.
    """
    known = tuple(known_to(base))
    if not (work / "scenes").exists():
        write_world(work / "scenes", scenes, SEED, subjects=known, mixture=True)
    words = recommended(base, COMMAND).get("prompt") or prompts_for(base)
    asked = {f"{scenes:,} scenes": {"images": str(work / "scenes"), "prompt": []}, "prompts alone": {"prompt": words}}
    places = {name: work / folder for name, folder in zip(asked, ("on_scenes", "on_prompts"), strict=True)}
    took = {name: _seconds(base, places[name], values, steps, out / COMMAND) for name, values in asked.items()}
    made = {name: trained(COMMAND, base, places[name], values, steps) for name, values in asked.items()}
    config = judging(base, count)
    files = {name: results(run.folder, run.name).adapters[0] for name, run in made.items()}
    held = cache(lambda: held_against(bench_of(base, *next(iter(files.items())), config)))
    reports = {name: _report(base, run, files[name], config, held) for name, run in made.items()}
    sheet = _stacked([charts(_curves(reports), f"the base in {told(TEACHER)}"), _pictures(reports)])
    text = _text(base, reports, config) + "\n## What it cost\n\n" + _costs(made, took)
    text += "\n## What else was tried\n\n"
    text += tried(base, reports["prompts alone"], words, held, config, out / COMMAND, work, steps)
    text += "\n## Beside other adapters\n\n" + stacked(base, files["prompts alone"], runs, count, out / COMMAND, steps)
    return page(out, COMMAND, "Drawing in few steps", "few-step-figures", text, sheet, "by steps")


def _seconds(base: str, folder: Path, values: Mapping[str, Any], steps: int, out: Path) -> float | None:
    """How long all of a command took in this process, with nothing in its cache; None where it had begun before."""

    def whole() -> float | None:
        if folder.exists():
            return None
        start = perf_counter()
        with TemporaryDirectory() as empty:
            trained(COMMAND, base, folder, {**values, "cache": empty}, steps)
        return perf_counter() - start

    asked = {"base": base, "on": folder.name, "steps": steps}
    return kept(out / f"{folder.name}.json", asked, {"seconds": whole})["seconds"]


def _report(base: str, run: Run, file: Path, config: Config, held: Callable[[], Held]) -> Stored:
    """How a student is judged: as the folder of its run says, where it has been judged so before."""
    folder = run.folder / "report"

    def measure() -> list[str]:
        report = side_by_side(base, {run.name: file}, config, held())[run.name]
        return [str(save(report, folder).name)]

    asked = {"base": base, "prompts": config.other, "count": config.count, "few": config.few}
    kept(folder / "asked.json", asked, {"report": measure})
    return load(folder)


# -- the page ----------------------------------------------------------------------------------------------------------


def _text(base: str, reports: Mapping[str, Stored], config: Config) -> str:
    """What was measured, as Markdown."""
    first = next(iter(reports.values()))
    rows = [
        (f"LCM of {name}, {who.partition(', ')[2]}", *cells_of(cells))
        for name, report in reports.items() for who, cells in rows_of(report) if who.startswith("student")
    ]  # fmt: skip
    rows += [
        (f"the base, {who.partition(', ')[2]}", *cells_of(cells)) for who, cells in rows_of(first) if "teacher" in who
    ]
    denied = [
        (f"LCM of {name}" if who.startswith("student") else "the base", *cells_of(cells))
        for place, (name, report) in enumerate(reports.items()) for who, cells in rows_of(report, 1)
        if who.startswith("student") or not place
    ] if len(first.tables) > 1 else []  # fmt: skip
    number, settings = len(config.other) * config.count, {name: str(said) for name, said in first.settings.items()}
    text = [
        f"The base `{Path(base).name}`, distilled by `tuner distill-lcm` on scenes and on prompts alone. {number} "
        f"pictures a row, {config.count} of each of {len(config.other)} prompts, the same seeds in every row. The "
        f"students are drawn by {settings['sampler']} at guidance {float(settings['guidance']):g}, the base by "
        f"{settings['teacher'].partition(',')[0]} at guidance {config.guidance:g}. Right is what both judges see; "
        f"KID is from {settings['real pictures']} new scenes of the same words; precision and recall are against the "
        f"base's pictures in {told(TEACHER)}, at other seeds. In brackets the 95% interval, or ± the standard error.\n",
        table(("drawn by", *first.tables[0].head[1:]), rows),
        "## What a negative prompt still does\n",
        "Prompts name no background, and the negative prompt names the one that both judges see without it. Obeyed is "
        "where neither sees it any more. At guidance 1 nothing is led away from, so that nothing can change.\n",
        table(("drawn by", *first.tables[1].head[1:]), denied) if denied else "There was nothing that it could name.\n",
    ]  # fmt: skip
    return "\n".join(text)


def _costs(made: Mapping[str, Run], took: Mapping[str, float | None]) -> str:
    """Seconds of the steps alone, and of the whole command with nothing in its cache."""
    rows = []
    for name, run in made.items():
        size = (run.folder / f"{run.name}.safetensors").stat().st_size
        values, said = run.values, f"{took[name]:.0f} s" if took[name] else ""
        rows.append((name, f"{values['steps']} of {values['batch_size']}", f"{values['learning_rate']:g}",
                     f"{seconds_of(run):.0f} s", said, f"{size / 1e6:.1f} MB"))  # fmt: skip
    return table(("distilled on", "steps", "learning rate", "of the steps", "all of it", "file"), rows)


def _curves(reports: Mapping[str, Stored]) -> list[Chart]:
    """A chart for each of some figures: a curve for each student and for the base, which in many steps is the level."""
    first = next(iter(reports.values()))
    found = []
    for title in (name for name in CURVES if name in first.tables[0].head):
        column = first.tables[0].head.index(title) - 1
        curves = {f"LCM of {name}": _curve(report, "student", column) for name, report in reports.items()}
        whole = _curve(first, "teacher", column)
        level = whole.pop(TEACHER, None)
        found.append(Chart(title, {**curves, "the base": whole}, level))
    return found


def _curve(report: Stored, who: str, column: int) -> dict[int, Figure]:
    found = {}
    for name, cells in rows_of(report):
        figure = cells[column]
        if name.startswith(who) and isinstance(figure, Figure):
            found[int(name.split()[1])] = figure
    return found


def _pictures(reports: Mapping[str, Stored]) -> Image.Image:
    """Rows of pictures, the same prompts and seeds in each."""
    rows: dict[str, list[Image.Image]] = {}
    for name, report in reports.items():
        shown = report.grids[0]
        for place, column in enumerate(shown.columns):
            who = f"LCM of {name}" if column.startswith("student") else "the base"
            found = [report.picture(row.pictures[place]) for row in shown.rows[:SHOWN]]
            rows[f"{who}, {column.partition(', ')[2]}"] = [picture for picture in found if picture is not None]
    last = rows.pop(f"the base, {told(TEACHER)}")
    rows[f"the base, {told(TEACHER)}"] = last
    return grid(list(rows.values()), list(rows), cell=84)


def _stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (max(one.width for one in pictures), sum(one.height for one in pictures)), PAPER)
    top = 0
    for one in pictures:
        sheet.paste(one, (0, top))
        top += one.height
    return sheet
