"""The page of control networks: trained on scenes of what the base knows, judged on scenes that nothing was trained on.

A ControlNet and a T2I-Adapter for edges; and both kinds of adapter, a LoRA and a token, beside the ControlNet at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from ..evaluation.report import Report
from ..evaluation.results import results
from ..evaluation.sheet import grid
from ..evaluation.statistics import Figure
from ..models.control_loading import WEIGHTS as FILE
from ..run import Run
from ..sampling.shots import Shot
from . import world
from .figures import known_to
from .folders import write_scenes
from .learning import judged, seconds_of, trained
from .pages import cell, page, table
from .together import Everything

CONDITION, SEED = "canny", 9001  # of the scenes that are trained on
NETWORKS = {"ControlNet": "controlnet", "T2I-Adapter": "t2i-adapter"}  # name -> command
WEIGHTS = 1.0, 1.6  # at which each is judged
SHOWN = 12


def of_control(
    base: str, scenes: int, examples: int, count: int, out: Path, work: Path, runs: Path, steps: int = 0
) -> str:
    """Train both networks, judge them on unseen edges, draw with everything at once; write the page; its text.

    Args:
        scenes: to train on.
        examples: unseen scenes to draw after.
        count: unseen scenes of each of the two subjects that are drawn with everything at once.
        work: folder of the scenes and of the networks' runs, which are gone on with.
        runs: folder of the runs of LoRAs and tokens, which are used again.
        steps: of every training, in the stead of the base's own; 0 is those.
    """
    known = tuple(known_to(base))
    if not (work / "scenes").exists():
        plain = world.scenes(SEED, scenes, known, styles=("plain",))
        write_scenes(work / "scenes", (world.spread(it) for it in plain))
    options = {"images": str(work / "scenes"), "condition": CONDITION}
    made = {name: trained(command, base, work / command, options, steps) for name, command in NETWORKS.items()}
    asked, drawings = {"suite": "control", "base": base, "examples": examples, "count": 1}, dict[Shot, Image.Image]()
    reports = {
        (name, weight): judged(base, {**asked, "control": f"{folder_of(run)}:{weight:g}"}, drawings)
        for name, run in made.items() for weight in WEIGHTS
    }  # fmt: skip
    everything = Everything.load(base, folder_of(made["ControlNet"]), runs, count, steps)
    text = "\n".join([
        f"Drawn after the edges ({CONDITION}) of {examples} scenes that nothing was trained on, of subjects that the "
        "base knows, a picture each. How large a subject is, where, and which way round, the edges say and the prompt "
        "does not. From every picture the edges are taken again and held against what was asked for, with a tolerance "
        "of 1 pixel. Rebuilt are the unseen scenes themselves through the base's autoencoder, the most that can be "
        "had. Right is what both judges see. In brackets the 95% interval. A weight is that of `--control DIR:WEIGHT`: "
        "guidance counts what the prompt adds three times, but what the edges add, which is in both of its passes, "
        "once; more weight makes up for that.\n",
        _agreement(reports), "## What they cost\n", _costs(made), "## With a LoRA and a token\n", *everything.text(),
    ])  # fmt: skip
    rows = {**_rows(reports), **everything.shown(SHOWN // 2)}
    sheet = grid(list(rows.values()), list(rows), cell=96)
    return page(out, "controlnet", "ControlNet and T2I-Adapter", "control-figures", text, sheet, "drawn after edges")


def folder_of(run: Run) -> Path:
    """Where a control network's run has left it."""
    folder = results(run.folder, run.name).control
    assert folder is not None
    return folder


def _agreement(reports: Mapping[tuple[str, float], Report]) -> str:
    """Without control, with each network, and the autoencoder's own."""
    first = next(iter(reports.values())).tables[0]
    found = [(f"{name}, weight {at:g}", report.tables[0].rows[0]) for (name, at), report in reports.items()]
    rows = [("no control", first.rows[1]), *found, ("unseen scenes, rebuilt", first.rows[2])]
    return table(("drawn with", *first.head[1:]), [(name, *_cells(row[1:])) for name, row in rows])


def _cells(figures: Sequence[str | Figure]) -> list[str]:
    return [cell(figure) for figure in figures if isinstance(figure, Figure)]


def _costs(made: dict[str, Run]) -> str:
    """Steps, seconds, parameters, file sizes."""
    from ..adapters.container import read_header

    rows = []
    for name, run in made.items():
        header, values = read_header(folder_of(run) / FILE), run.values
        parameters = sum(entry.count for entry in header.entries.values())
        rows.append((
            name, f"{values['steps']} of {values['batch_size']}, learning rate {values['learning_rate']:g}",
            f"{seconds_of(run):.0f} s", f"{parameters:,}", f"{header.size / 1e6:.1f} MB",
        ))  # fmt: skip
    return table(("network", "steps", "training", "parameters", "file"), rows)


def _rows(reports: Mapping[tuple[str, float], Report]) -> dict[str, list[Image.Image]]:
    """Some of the conditions as columns: what was asked for, and what was drawn, at the larger weight."""
    columns = {name: list(zip(*(found for _, found in report.grids[0].rows), strict=True))
               for (name, at), report in reports.items() if at == max(WEIGHTS)}  # fmt: skip
    picture, asked, without, _, _ = next(iter(columns.values()))
    rows = {"unseen scenes": picture, "their edges": asked, "no control": without}
    for name, (_, _, _, drawn, found) in columns.items():
        rows |= {f"{name}, weight {max(WEIGHTS):g}": drawn, f"the edges of {name}'s": found}
    return {words: list(pictures[:SHOWN]) for words, pictures in rows.items()}
