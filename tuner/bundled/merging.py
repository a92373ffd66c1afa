"""The page of merging: two subjects and a style that the base never saw, learned apart, merged by every method."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..adapters.merge_request import Config as MergeConfig
from ..commands.merge import merge
from ..commands.show import Silent
from ..config import build
from ..evaluation.bench import Bench, Judged
from ..evaluation.concepts import concepts_of
from ..evaluation.plan import OTHER, Drawn, Plan
from ..evaluation.report import Line, Report
from ..evaluation.request import Config
from ..evaluation.sheet import grid
from ..evaluation.suites.merge import MEAN, reported
from ..files import replacing, write_text
from ..models.latent_diffusion import recommended
from ..places import place
from ..run import Run
from . import world
from .figures import known_to
from .learning import lora, trained
from .pages import BATCH, DRAWING, cell, page, plain, table

SUBJECTS = ("teddy bear", "fox")
STYLE = "foggy picture"
SEED, PICTURES, SIDE = 8706, 96, 128  # of the pictures that the style is learned from
FOG, THIN, THICK = (225, 230, 236), 0.25, 0.70  # its colour; its share at the top of a picture and at the bottom
RANK = 16  # of what svd leaves


@dataclass(frozen=True)
class Judgement:
    """What the suite says of something, and the size of its files in bytes."""

    report: Report
    size: int
    note: str = ""

    @property
    def lines(self) -> dict[str, Line]:
        return {line.figure.name: line for line in self.report.lines}


def of_merging(base: str, count: int, out: Path, runs: Path, steps: int = 0) -> str:
    """Train the three, merge them by each method, judge; write out/merge.md and out/merge.png; the text.

    Args:
        count: pictures of each prompt.
        runs: folder of the runs, which are used again; the merged files go into `merge` in it.
        steps: of each training; 0 is the base's own number.
    """
    pictures = foggy_folder(runs / "merge" / "foggy", known_to(base))
    made = [*(lora(base, name, runs, steps) for name in SUBJECTS),
            trained("lora", base, runs / "foggy", {"images": str(pictures)}, steps)]  # fmt: skip
    files = [run.folder / f"{run.name}.safetensors" for run in made]
    config = _config(base, count, pictures)
    first = _bench(base, "before", [files[0]], config)
    plan = Plan.of(first, concepts_of(first))
    before = plan.drawn(first, first.before)
    found: dict[str, Judgement] = {}
    for file in files:
        found[f"{file.stem} alone"] = _judgement(base, file, config, plan, before)
    for name, options in ways(base, made, files).items():
        merged, note = _merged(base, name, options, runs / "merge")
        found[name] = _judgement(base, merged, config, plan, before, note)
    sheet = _sheet(list(found.items()), plan)
    return page(out, "merge", "Merging two subjects and a style", "merge-figures", _text(found, plan), sheet, "merged")


# -- the style ---------------------------------------------------------------------------------------------------------


def foggy(picture: Image.Image) -> Image.Image:
    """A picture in fog that thickens downwards: a style that neither the base nor the judges were shown."""
    share = np.linspace(THIN, THICK, picture.height)[:, None, None]
    veiled = (1 - share) * np.asarray(picture.convert("RGB"), np.float64) + share * np.array(FOG)
    return Image.fromarray(veiled.round().astype(np.uint8))


def foggy_folder(folder: Path, subjects: Sequence[str]) -> Path:
    """Foggy pictures of what the base knows, with captions: made once."""
    if not folder.is_dir():
        with replacing(folder) as part:
            part.mkdir()
            scenes = world.scenes(SEED, PICTURES, subjects, styles=("plain",))
            for i, it in enumerate((replace(scene, phrasing=0) for scene in scenes), 1):
                foggy(world.draw(it, SIDE)).save(part / f"{i:02d}.png")
                write_text(part / f"{i:02d}.txt", f"a {STYLE} of {world.caption(it)}\n")
    return folder


# -- merging and judging -----------------------------------------------------------------------------------------------


def ways(base: str, made: Sequence[Run], files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """The page's merges, by name: the options of `tuner merge`.

    Fusion is given captions of each one's own pictures, and, to stay as they are, what its LoRAs were not to forget.
    """
    each, thirds = [str(file) for file in files], [f"{file}:{1 / len(files):g}" for file in files]
    own = [f"{file}={words}" for run, file in zip(made, files, strict=True) for words in _captions(run)]
    fusion = {"file": each, "method": "fusion", "prompt": own}
    return {
        "average": {"file": thirds, "method": "exact"},
        "exact": {"file": each, "method": "exact"},
        "svd": {"file": each, "method": "svd", "rank": RANK},
        "ties": {"file": each, "method": "ties"},
        "dare": {"file": each, "method": "dare"},
        "fusion": fusion,
        "fusion-retain": {**fusion, "retain": recommended(base, "lora").get("class_prompt", [])},
    }


def _merged(base: str, name: str, options: Mapping[str, Any], folder: Path) -> tuple[Path, str]:
    """The file that `tuner merge` makes, anew, and what it says of it."""
    out = folder / f"{name}.safetensors"
    out.unlink(missing_ok=True)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        merge(build(MergeConfig, {**options, "out": str(out), "base": base, "json": True}))
    facts = json.loads(said.getvalue())
    cut = "rank" in options
    lost = f"Truncated to rank {options['rank']}, it misses {facts['error']:.1%} of the sum." if cut else ""
    return out, " ".join(filter(None, (lost, *facts["notes"])))


def _captions(run: Run) -> list[str]:
    """What a run's pictures are called."""
    return [file.read_text(encoding="utf-8").strip() for file in sorted(Path(run.values["images"]).glob("*.txt"))[:12]]


def _config(base: str, count: int, pictures: Path) -> Config:
    subjects = [f"a {name}={place('datasets') / name.replace(' ', '_')}" for name in SUBJECTS]
    own = {"world": True, "base": base, "batch_size": BATCH, "count": count}
    told = {"concept": subjects, "style": [f"a {STYLE} of {{}}={pictures}"]}
    return build(Config, {**recommended(base, "evaluate"), **own, **told, **DRAWING})


def _bench(base: str, name: str, files: Sequence[Path], config: Config) -> Bench:
    return Bench("merge", Judged(name, base, [(file, 1.0) for file in files]), config, Silent())


def _judgement(base: str, file: Path, config: Config, plan: Plan, before: Drawn, note: str = "") -> Judgement:
    bench = _bench(base, file.stem, [file], config)
    return Judgement(reported(bench, plan, plan.drawn(bench, bench.after), before), file.stat().st_size, note)


# -- the page ----------------------------------------------------------------------------------------------------------


def _text(found: Mapping[str, Judgement], plan: Plan) -> str:
    """What was measured, as Markdown."""
    first = next(iter(found.values()))
    names = [one.name for one in plan.concepts]
    columns = {f"{name}: recognised": name for name in names}
    columns |= {" + ".join(one.name for one in who): "" for who in plan.together()}
    columns |= {"others kept": "", f"drift of others-{first.report.settings['features']}": "drift of others"}
    head = ["", *(short or name for name, short in columns.items()), MEAN, "file"]
    base = ["the base", *(_before(first.lines[name]) for name in columns), "", ""]
    rows = [
        [name, *(plain(one.lines[column].figure) for column in columns), cell(one.lines[MEAN].figure),
         f"{one.size / 1e6:.1f} MB"]
        for name, one in found.items()
    ]  # fmt: skip
    prompts = len(plan.words((plan.concepts[0],)))
    notes = [f"{name}: {one.note}" for name, one in found.items() if one.note]
    return "\n".join([
        f"LoRAs of a {SUBJECTS[0]}, a {SUBJECTS[1]} and of a style, fog, that the base never saw, each learned by "
        "itself with the base's own settings, and merged at weight 1 each, in the plain average at a "
        "third each; fusion-retain is fusion with --retain for things that the base knows. "
        "By `tuner evaluate --suite merge`: "
        f"{prompts} pictures of each concept, {len(plan.words(plan.together()[0]))} of two together, "
        f"{len(plan.words(OTHER))} of other things, at the same seeds in every row, in {DRAWING['steps']} steps.\n",
        "A concept alone is recognised where a picture shows it as its reference pictures do. Two subjects together "
        "are right where both judges see each in the place that the prompt gives it; a subject in the style where it "
        "is recognised as both. Others are kept where both judges see all that was asked for. The harmonic mean is of "
        f"the {len(names)} concepts alone and of others kept, and of nothing else; in brackets its 95% interval.\n",
        table(head, [base, *rows]), *(f"- {note}" for note in notes), "",
    ])  # fmt: skip


def _before(line: Line) -> str:
    return plain(line.before) if line.before else ""


def _sheet(found: Sequence[tuple[str, Judgement]], plan: Plan) -> Image.Image:
    """Of every kind of prompt the first picture: the base's, then each row's of the table."""
    columns = [" + ".join(one.name.removeprefix("a ") for one in who) or "other things" for who in plan.prompts]
    before = [shown.rows[0][1][0] for shown in found[0][1].report.grids]
    rows, words = [before], ["the base"]
    for name, one in found:
        rows.append([pictures[len(pictures) // 2] for _, pictures in (shown.rows[0] for shown in one.report.grids)])
        words.append(name)
    return grid(rows, words, columns, cell=192)
