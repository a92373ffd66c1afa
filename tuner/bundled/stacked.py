"""Whether what was distilled goes together with what was learned and what was taken out: in four steps, and in many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..adapters.apply import adapted
from ..adapters.header import manner
from ..commands.show import Silent
from ..config import build
from ..evaluation.bench import Bench, Judged
from ..evaluation.erased import Erased, Sight
from ..evaluation.gallery import Gallery
from ..evaluation.request import Config
from ..evaluation.statistics import share
from ..evaluation.suites.subject import OTHERS, recognised
from ..models.latent_diffusion import recommended
from ..places import place
from ..run import Run
from ..sampling.manner import Manner
from ..sampling.shots import Shot
from .erasing import CASES, run_of
from .kept import kept
from .learning import lora
from .pages import BATCH, cell, table

SUBJECT, MANY = "teddy bear", 25
TAKEN = next(case for case in CASES if case.target == "grumpy cat")
Pictures = Sequence[Image.Image]


def stacked(base: str, fast: Path, runs: Path, count: int, out: Path, steps: int = 0) -> str:
    """A LoRA of a subject, and an ablation, each without `fast` in many steps and with it in four; Markdown.

    Args:
        fast: a distilled LoRA of the base.
        runs: folder of the runs of both, which are used again.
        count: pictures of each row, about.
        out: what it holds is not measured again.
        steps: of their trainings, in the stead of the base's own; 0 is those.
    """
    asked = {"base": base, "subject": SUBJECT, "target": TAKEN.target, "pictures": count, "steps": steps}
    config = build(Config, {**recommended(base, "evaluate"), "world": True, "base": base, "batch_size": BATCH,
                            "steps": MANY})  # fmt: skip
    it = _Stack(Bench("few-step", Judged("stacked", base, [(fast, 1.0)]), config, Silent()), fast)
    parts = {"learned": partial(_learned, it, runs, count, steps), "taken": partial(_taken, it, runs, count, steps)}
    found = kept(out / "stacked.json", asked, parts)
    head = ("beside", "", f"the base in {MANY} steps, guidance {config.guidance:g}", f"with the LCM in {it.way.steps}")
    return (
        "The LCM of prompts alone beside other adapters, each at weight 1, at the same seeds: about "
        f"{count} pictures each. Recognised is what both judges find nearest to the subject; seen is what any judge "
        "sees.\n\n"
    ) + table(head, [*found["learned"], *found["taken"]])


def _learned(it: _Stack, runs: Path, count: int, steps: int) -> list[list[str]]:
    """Rows of a LoRA of a subject, and of nothing beside."""
    own = lora(it.base, SUBJECT, runs, steps)
    others = it.drawn([], it.shots(it.bench.config.other or OTHERS, 1))
    gallery = Gallery.open(str(place("datasets") / SUBJECT.replace(" ", "_")), "--images")
    bears = it.prompts(f"a {SUBJECT}", count)
    return [[who, f"{SUBJECT} recognised", *_cells(recognised(it.bench, it.both(its, bears), gallery, others), SUBJECT)]
            for who, its in (("nothing", []), (f"a LoRA of a {SUBJECT}", [_file(own)]))]  # fmt: skip


def _taken(it: _Stack, runs: Path, count: int, steps: int) -> list[list[str]]:
    """Rows of an ablation, and of nothing beside."""
    file = _file(run_of(it.base, TAKEN, "default", {}, runs / "ablation", steps))
    cats, anchors = it.prompts(f"a {TAKEN.target}", count), it.prompts(f"a {TAKEN.anchor}", count)
    rest, before = it.shots(it.bench.config.other or OTHERS, 1), it.both([], cats)
    known = ((cats, before[0]), (anchors, it.drawn([], anchors)), (rest, it.drawn([], rest)))
    erased = Erased.of(Bench(it.bench.suite, Judged("taken", it.base, [(file, 1.0)]), it.bench.config, Silent()))
    sight = Sight(it.bench, erased, *(dict(zip(shots, pictures, strict=True)) for shots, pictures in known))
    return [[who, f"{TAKEN.target} seen", *_cells([sight.present(part, cats) for part in drawn], "seen")]
            for who, drawn in (("nothing", before), (f"{TAKEN.target} taken out", it.both([file], cats)))]  # fmt: skip


class _Stack:
    """Draws with files and with the distilled one beside them, or without."""

    def __init__(self, bench: Bench, fast: Path) -> None:
        way = manner(fast)
        assert way is not None
        self.bench, self.base, self.fast, self.way = bench, bench.judged.base, fast, way

    def shots(self, prompts: Sequence[str], count: int) -> list[Shot]:
        return self.bench.shots(prompts, count)

    def prompts(self, words: str, count: int) -> list[Shot]:
        """In the contexts that the base is evaluated by."""
        contexts = [text for text in self.bench.config.prompt if "{}" in text] or ["{}"]
        return self.shots([text.replace("{}", words) for text in contexts], max(1, round(count / len(contexts))))

    def both(self, files: Sequence[Path], shots: Sequence[Shot]) -> list[list[Image.Image]]:
        """In many steps without the distilled file, and in few with it."""
        few = [replace(shot, steps=self.way.steps, guidance=self.way.guidance) for shot in shots]
        return [self.drawn(files, shots), self.drawn([*files, self.fast], few, self.way)]

    def drawn(self, files: Sequence[Path], shots: Sequence[Shot], way: Manner | None = None) -> list[Image.Image]:
        plain = self.bench.pipe(self.base, way.sampler if way else "")
        plain.scheduler.register_to_config(**(way.schedule if way else {}))
        with adapted(plain, [(file, 1.0) for file in files]) as pipe:
            return self.bench.drawn(pipe, shots, "together")


def _file(run: Run) -> Path:
    return run.folder / f"{run.name}.safetensors"


def _cells(sets: Sequence[np.ndarray], name: str) -> list[str]:
    return [cell(share(values, name)) for values in sets]
