"""Trains the bundled judge (`tuner.evaluation.judge`) on the picture world and measures it on scenes it never saw.

A classifier of the makers, not a recipe: the loop here is the plain supervised one. Everything is drawn from seeds
that nothing else uses, so the judge and the bundled base have no scene in common but by chance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..adapters.artifact import Artifact
from ..evaluation.judge import ABOUT, SIDE, WEIGHTS, Judge, Verdict
from ..randomness import generator
from . import emoji, world
from .soften import soften

TRAIN, TEST = 7001, 7002  # first words of the seeds; the base uses 1 to 4
SUBJECTS = emoji.KNOWN + emoji.HELD_OUT
STYLE_SHARE = (0.40, 0.18, 0.14, 0.14, 0.14)  # more of the rare and difficult styles than the world draws
CAT_WEIGHT = 2.5  # eleven faces that differ by a mouth and two eyes
STRANGERS = 0.12  # share of pictures of no subject that the judge knows
SMOOTHING = 0.05


@dataclass(frozen=True)
class Examples:
    """pixels uint8 (N, 3, 64, 64); subject, background, style (N,): class numbers. A stranger's subject is
    `len(SUBJECTS)`; a background or a style that does not count is -1."""

    pixels: Tensor
    subject: Tensor
    background: Tensor
    style: Tensor

    def __getitem__(self, rows: Tensor) -> Examples:
        return Examples(self.pixels[rows], self.subject[rows], self.background[rows], self.style[rows])


def training_scenes(seed: int, count: int) -> Iterator[world.Scene]:
    """Scene i depends on (seed, i) alone."""
    strangers = sorted(set(emoji.table()) - set(SUBJECTS))
    weights = np.array([CAT_WEIGHT if name in emoji.CATS else 1.0 for name in SUBJECTS])
    for i in range(count):
        rng = np.random.default_rng((TRAIN, seed, i))
        style = (world.STYLES[int(rng.choice(len(world.STYLES), p=STYLE_SHARE))],)
        if rng.random() < STRANGERS:
            yield world.scene(rng, strangers, styles=style)
        else:
            yield world.scene(rng, SUBJECTS, weights / weights.sum(), style)


def test_scenes(each: int, subjects: Sequence[str] = SUBJECTS) -> Iterator[world.Scene]:
    """`each` scenes of every subject in every style."""
    for s, style in enumerate(world.STYLES):
        for n, name in enumerate(subjects):
            for i in range(each):
                yield world.scene(np.random.default_rng((TEST, s, n, i)), (name,), styles=(style,))


def examples(scenes: Iterable[world.Scene]) -> Examples:
    """Draw the scenes and number their classes."""
    known = {name: i for i, name in enumerate(SUBJECTS)}
    colours = {name: i for i, name in enumerate(world.COLOURS)}
    images, rows = [], []
    for it in scenes:
        images.append(np.asarray(world.draw(it, SIDE)).transpose(2, 0, 1))
        background = colours.get(it.background, -1)
        rows.append((known.get(it.subject, len(known)), background, world.STYLES.index(it.style)))
    return Examples(torch.from_numpy(np.stack(images)), *torch.tensor(rows).T.contiguous())


def loss_of(verdict: Verdict, batch: Examples) -> Tensor:
    """Cross entropy of the three heads, smoothed; strangers are pulled towards an even distribution over subjects."""
    count = len(SUBJECTS)
    sure = torch.eye(count) * (1 - SMOOTHING) + SMOOTHING / count
    targets = torch.cat([sure, torch.full((1, count), 1 / count)])
    subject = functional.cross_entropy(verdict.subject.float(), targets[batch.subject])
    smoothed = nn.CrossEntropyLoss(ignore_index=-1, label_smoothing=SMOOTHING)
    background = smoothed(verdict.background.float(), batch.background)
    style = smoothed(verdict.style.float(), batch.style)
    return subject + 0.5 * background + style


def train(
    steps: int = 1800,
    seed: int = 1,
    count: int = 24_000,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    say: Callable[[str], None] = print,
) -> Judge:
    """A new judge from `steps` steps over `count` scenes: about eight minutes on one idle CPU core."""
    data = examples(training_scenes(seed, count))
    say(f"drew {count} scenes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(SUBJECTS, tuple(world.COLOURS), world.STYLES)
    optimizer = torch.optim.AdamW(judge.parameters(), learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.1)
    for step in range(steps):
        random = generator("judge", seed, step)
        batch = data[torch.randint(len(data.pixels), (batch_size,), generator=random)]
        pixels, ruined = soften(batch.pixels.float() / 127.5 - 1, random)
        batch.subject[ruined], batch.style[ruined] = len(SUBJECTS), -1
        with torch.autocast("cpu", torch.bfloat16):
            verdict = judge(pixels)
        loss = loss_of(verdict, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            say(f"step {step + 1} of {steps}: loss {loss.item():.3f}")
    return judge.half().float().eval().requires_grad_(False)  # what will be in the file is what is measured


def measure(judge: Judge, each: int = 12) -> dict[str, dict[str, float]]:
    """Shares of right answers on unseen scenes, `each` a subject and style: group -> head -> share."""
    it = examples(test_scenes(each))
    with torch.no_grad():
        verdicts = [judge(chunk.float() / 127.5 - 1) for chunk in it.pixels.split(128)]
    right = {
        head: torch.cat([getattr(v, head) for v in verdicts]).argmax(dim=1) == getattr(it, head)
        for head in ("subject", "background", "style")
    }
    everyone = torch.ones(len(it.style), dtype=torch.bool)
    groups = {"all": everyone} | {name: it.style == i for i, name in enumerate(world.STYLES)}
    groups["cats"] = it.subject < len(emoji.CATS)
    groups["plain cats"] = groups["cats"] & groups["plain"]
    groups["held out"] = it.subject >= len(emoji.KNOWN)
    counted = {"subject": everyone, "background": it.background >= 0, "style": everyone}
    return {
        group: {
            head: round(right[head][rows & counted[head]].float().mean().item(), 4)
            for head in right
            if (rows & counted[head]).any()
        }
        for group, rows in groups.items()
    }


def save(judge: Judge, accuracy: dict[str, dict[str, float]], seed: int, steps: int, path: Path = WEIGHTS) -> None:
    """Write the weights in fp16, and in the header the classes, the seed and the measured accuracy."""
    about = {key: getattr(judge, key) for key in ABOUT} | {"accuracy": accuracy, "seed": seed, "steps": steps}
    header = {key: json.dumps(value) for key, value in about.items()}
    Artifact(judge.state_dict(), header).to(torch.float16).save(path)
