"""Trains the bundled classifier (`tuner.evaluation.judge`) on the picture world: makers' code, no recipe.

Everything is drawn from seeds that nothing else uses, so the judge and the bundled base have no scene in common but by
chance. Of pictures of two subjects it learns the halves, each enlarged, as it will be shown them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..evaluation.judge import Judge, Verdict
from ..evaluation.relations import halves
from ..randomness import generator
from . import world
from .lessons import SUBJECTS, lessons, pictures
from .soften import soften
from .teach import teach

TRAIN, TEST = 7001, 7002  # first words of the seeds; the base uses 1 to 4
STEPS = 2000
SMOOTHING = 0.05
UNASKED = -1  # the class of what is not to be learned from a picture


@dataclass(frozen=True)
class Examples:
    """pixels uint8 (N, 3, 64, 64); subject, background, style, count (N,): class numbers. A stranger's subject is
    `len(SUBJECTS)`; what does not count is -1."""

    pixels: Tensor
    subject: Tensor
    background: Tensor
    style: Tensor
    count: Tensor

    def __getitem__(self, rows: Tensor) -> Examples:
        return Examples(*(getattr(self, field.name)[rows] for field in fields(self)))


def examples(scenes: list[world.Scene]) -> Examples:
    """Draw the scenes and number their classes; the halves of pictures of two subjects come last."""
    known = {name: i for i, name in enumerate(SUBJECTS)}
    colours = {name: i for i, name in enumerate(world.COLOURS)}
    drawn, rows, parts = pictures(scenes), [], []
    for it, pixels in zip(scenes, drawn, strict=True):
        background, style = colours.get(it.background, UNASKED), world.STYLES.index(it.style)
        if it.other:
            rows.append((UNASKED, background, style, UNASKED))
            both = halves(pixels[None].float() / 127.5 - 1, it.relation)[0]
            parts += [
                (half, (known[name], background, UNASKED, UNASKED))
                for half, name in zip(both.add(1).mul(127.5).round().byte(), (it.subject, it.other), strict=True)
            ]
        else:
            rows.append((known.get(it.subject, len(known)), background, style, it.count - 1))
    pixels = torch.cat([drawn, *(half[None] for half, _ in parts)])
    return Examples(pixels, *torch.tensor(rows + [row for _, row in parts]).T.contiguous())


def loss_of(verdict: Verdict, batch: Examples) -> Tensor:
    """Cross entropy of the heads, smoothed; strangers are pulled towards an even distribution over subjects."""
    count = len(SUBJECTS)
    sure = torch.eye(count) * (1 - SMOOTHING) + SMOOTHING / count
    targets = torch.cat([sure, torch.full((1, count), 1 / count)])
    asked = batch.subject != UNASKED
    subject = functional.cross_entropy(verdict.subject[asked], targets[batch.subject[asked]])
    smoothed = nn.CrossEntropyLoss(ignore_index=UNASKED, label_smoothing=SMOOTHING)
    background, style = smoothed(verdict.background, batch.background), smoothed(verdict.style, batch.style)
    return subject + 0.5 * background + style + 0.3 * smoothed(verdict.count, batch.count)


def train(
    steps: int = STEPS,
    seed: int = 1,
    count: int = 18_000,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    matrices_rate: float = 4e-3,
    keep: Path | None = None,
    say: Callable[[str], None] = print,
) -> Judge:
    """A new judge from `steps` steps over `count` scenes: about half an hour on one idle CPU core."""
    data = examples(list(lessons(TRAIN, seed, count)))
    say(f"drew {count} scenes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(SUBJECTS, tuple(world.COLOURS), world.STYLES)
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # by a quarter faster

    def loss(step: int) -> Tensor:
        random = generator("judge", seed, step)
        batch = data[torch.randint(len(data.pixels), (batch_size,), generator=random)]
        pixels, ruined = soften(batch.pixels.float() / 127.5 - 1, random)
        batch.subject[ruined & (batch.subject != UNASKED)] = len(SUBJECTS)
        batch.style[ruined] = batch.count[ruined] = UNASKED
        return loss_of(judge(pixels), batch)

    teach(judge, loss, steps, learning_rate, keep, say, matrices_rate, ("blocks.",))
    return judge.half().float().eval().requires_grad_(False)  # what will be in the file is what is measured
