"""A LoRA, a token and a ControlNet in one pipeline: what each of them still does beside the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from ..adapters.apply import adapted
from ..commands.show import Silent
from ..config import build
from ..data.conditions import computed
from ..evaluation.bench import Bench, Judged
from ..evaluation.conditions import measured
from ..evaluation.evidence import right_in
from ..evaluation.gallery import Gallery
from ..evaluation.request import Config
from ..evaluation.statistics import mean, share
from ..evaluation.steered import Example, steering
from ..evaluation.suites.subject import OTHERS, recognised
from ..evaluation.words import begin, called
from ..models.control_loading import trained_with
from ..models.latent_diffusion import recommended
from ..places import place
from ..sampling.images import own_side
from ..sampling.shots import Shot
from . import world
from .learning import lora, token
from .pages import BATCH, cell, table

LORA, TOKEN = "teddy bear", "fox"  # whom each of the two knows
SEEDS = 8702, 8703  # of the scenes that are drawn after: the LoRA's subject, the token's
NAMES = "LoRA", "token", "ControlNet"
Which = tuple[bool, ...]  # of the three, those that are there
SHOWN: dict[Which, str] = {
    (False, False, False): "none of the three", (True, False, False): "the LoRA alone",
    (False, True, False): "the token alone", (False, False, True): "the ControlNet alone",
    (True, True, True): "all three",
}  # fmt: skip


@dataclass(frozen=True)
class Everything:
    """The three on one base, and unseen scenes of both subjects, first the LoRA's, then the token's, as many."""

    bench: Bench
    how: str
    examples: Sequence[Example]

    @classmethod
    def load(cls, base: str, control: Path, runs: Path, count: int, steps: int) -> Everything:
        """With the LoRA and the token of the other pages, trained now or before in `runs`."""
        files = [run.folder / f"{run.name}.safetensors"
                 for run in (lora(base, LORA, runs, steps), token(base, TOKEN, runs, steps))]  # fmt: skip
        adapters = [(file, 1.0) for file in files]
        config = build(Config, {**recommended(base, "evaluate"), "world": True, "base": base, "batch_size": BATCH})
        bench = Bench("subject", Judged("together", base, adapters, control=(control, 1.0)), config, Silent())
        how, side = trained_with(control), own_side(bench.pipe(base))
        examples = []
        for name, words, seed in zip((LORA, TOKEN), (f"a {LORA}", called(adapters)), SEEDS, strict=True):
            for i, it in enumerate(world.scenes(seed, count, (name,), styles=("plain",))):
                picture = world.draw(it, side)
                caption = f"{words} on a {it.background} background"
                examples.append(Example(f"{name} {i}", caption, picture, computed(how, picture)))
        return cls(bench, how, examples)

    @cached_property
    def sets(self) -> dict[Which, list[Image.Image]]:
        """What is drawn of every example with some of the three, at the same seeds."""
        return {which: self.drawn(*which) for which in product((False, True), repeat=3)}

    def drawn(self, lora: bool, token: bool, control: bool) -> list[Image.Image]:
        """A picture of every example. Without the token, its word means what its training began from."""
        c, judged = self.bench.config, self.bench.judged
        files = [file for file, there in zip(judged.adapters, (lora, token), strict=True) if there]
        shots = [
            Shot(one.caption, c.seed + i, "", c.steps, c.guidance, *one.picture.size)
            for i, one in enumerate(self.examples)
        ]
        with adapted(self.bench.pipe(judged.base), files) as pipe:
            if not token:
                begin(pipe, self.bench.words)
            controls = [steering(self.bench, pipe, self.examples)] if control else []
            return self.bench.drawn(pipe, shots, "together", controls)

    def text(self) -> list[str]:
        """What was measured, as Markdown."""
        half, names = len(self.examples) // 2, (LORA, TOKEN)
        words = [one.caption for one in self.examples]
        asked = [self.bench.asked(text) for text in words]
        edges = [one.condition for one in self.examples]
        seen = {name: self._recognised(name, slice(i * half, (i + 1) * half)) for i, name in enumerate(names)}
        rows = []
        for which, pictures in self.sets.items():
            label = " + ".join(name for name, there in zip(NAMES, which, strict=True) if there) or "none of the three"
            near = next(iter(measured(edges, [computed(self.how, one) for one in pictures]).values()))
            right = right_in(self.bench, asked, pictures)["background"]
            cells = [share(seen[name][which], name) for name in names]
            rows.append((label, *map(cell, (*cells, mean(near, "F1"), share(right, "background")))))
        head = "drawn with", f"{LORA} recognised", f"{TOKEN} recognised", f"F1 of {self.how}", "background right"
        return [
            f"One `tuner generate` takes them all: a LoRA of the {LORA}, a token of the {TOKEN} and the ControlNet. "
            f"{half} pictures of each of the two, after edges of unseen scenes of it, with all of the three and with "
            "some, at the same seeds.\n",
            f"```sh\ntuner generate {' '.join(map(_quoted, (words[0], words[half])))} \\\n"
            f"  {' '.join(f'--adapter {path.name}' for path, _ in self.bench.judged.adapters)} \\\n"
            "  --control controlnet --control-image edges.png\n```\n",
            table(head, rows),
        ]  # fmt: skip

    def _recognised(self, name: str, part: slice) -> dict[Which, np.ndarray]:
        """Of the pictures of a subject, those that both judges find nearest to it."""
        own = Gallery.open(str(place("datasets") / name.replace(" ", "_")), "--images")
        found = recognised(self.bench, [pictures[part] for pictures in self.sets.values()], own, self._others)
        return dict(zip(self.sets, found, strict=True))

    @cached_property
    def _others(self) -> list[Image.Image]:
        """Other things, by the base alone."""
        return self.bench.before(self.bench.shots(self.bench.config.other or OTHERS, 1))

    def shown(self, each: int) -> dict[str, list[Image.Image]]:
        """Rows of pictures: the first of both subjects."""
        half = len(self.examples) // 2
        places = [i for start in (0, half) for i in range(start, start + min(each, half))]
        rows = {f"scenes of a {LORA} and a {TOKEN}": [self.examples[i].picture for i in places],
                "the edges of these": [self.examples[i].shown for i in places]}  # fmt: skip
        return rows | {words: [self.sets[which][i] for i in places] for which, words in SHOWN.items()}


def _quoted(text: str) -> str:
    return f'"{text}"'
