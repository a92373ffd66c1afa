"""The bundled classifier: which subject, background and style of the picture world a picture shows, and how surely.

A small residual network with four heads for pictures of 64 x 64 pixels. It was trained on real scenes alone, with
seeds of its own (`tuner.bundled.judge`), so it judges what models draw without having seen any of it. Pictures that
show none of its subjects were trained towards an even distribution: its confidence is low where nothing fits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ..adapters.artifact import Artifact
from ..places import PACKAGE
from .relations import Related, halves

T = TypeVar("T")
WEIGHTS = PACKAGE / "bundled" / "judge" / "judge.safetensors"
ABOUT = ("subjects", "backgrounds", "styles", "widths", "embedding")  # what a judge is made from; the file's header
SIDE = 64  # pixels
REFERENCE_SEED, REFERENCES_EACH = 7003, 12  # training draws from 7001, its test from 7002
COUNTS = (1, 2, 3)
GRID = 8  # pixels after which the blocks of pixel art repeat: three in eight
SHARPNESS = 20.0  # scale of the cosine between a picture's features and a subject's direction


@dataclass(frozen=True)
class Verdict:
    """Logits: subject (N, subjects), background (N, backgrounds), style (N, styles), count (N, 3): one to three."""

    subject: Tensor
    background: Tensor
    style: Tensor
    count: Tensor


@dataclass(frozen=True)
class Opinion:
    """What the judge sees in one picture; each confidence is a softmax probability.

    A pencil sketch has no background: there `background` and its confidence mean nothing. `count` is how many of the
    subject there are, one to three.
    """

    subject: str
    background: str
    style: str
    count: int
    subject_confidence: float
    background_confidence: float
    style_confidence: float
    count_confidence: float


@dataclass(frozen=True)
class References:
    """Known pictures: names[i] is what features[i] shows. Features (R, D), L2-normalised."""

    names: tuple[str, ...]
    features: Tensor


@dataclass(frozen=True)
class Recognition:
    """The subject of the nearest reference picture and the cosine similarity to it."""

    subject: str
    similarity: float


def pixels(images: Sequence[Image.Image]) -> Tensor:
    """One picture or more as the judge takes them: float32 (N, 3, 64, 64) in [-1, 1], each scaled to the square."""
    small = [image.convert("RGB") for image in images]
    small = [i if i.size == (SIDE, SIDE) else i.resize((SIDE, SIDE), Image.Resampling.BOX) for i in small]
    stack = torch.from_numpy(np.stack([np.asarray(image) for image in small]))
    return stack.permute(0, 3, 1, 2).float().div(127.5).sub(1)


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut. (N, width, h, w) -> (N, out, h / stride, w / stride)."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.first_norm = nn.GroupNorm(8, out)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.second_norm = nn.GroupNorm(8, out)
        self.shortcut = nn.Conv2d(width, out, stride, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(h)) + self.shortcut(x))


class Judge(nn.Module):
    """Four heads on one small network. Subjects are told by cosine, so `features` measures likeness of subjects.

    Args:
        subjects, backgrounds, styles: the names of the classes, in the order of the logits.
        widths: channels at 32, 16, 8 and 4 pixels a side.
        embedding: D, the length of the features.
    """

    def __init__(
        self,
        subjects: Sequence[str],
        backgrounds: Sequence[str],
        styles: Sequence[str],
        widths: Sequence[int] = (32, 64, 128, 192),
        embedding: int = 128,
    ) -> None:
        super().__init__()
        self.subjects, self.backgrounds, self.styles = tuple(subjects), tuple(backgrounds), tuple(styles)
        self.widths, self.embedding = tuple(widths), embedding
        self.accuracy: dict[str, dict[str, float]] = {}  # on unseen scenes: kind -> concept -> share of right answers
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, widths[0], 3, padding=1))
        pairs = zip((widths[0], *widths[:-1]), widths, (1, 2, 2, 2), strict=True)
        self.blocks = nn.Sequential(*(Block(*pair) for pair in pairs))
        self.project = nn.Linear(widths[-1], embedding)
        self.subject = nn.Linear(embedding, len(self.subjects), bias=False)
        self.background = nn.Linear(widths[-1], len(self.backgrounds))
        self.style = nn.Linear(sum(widths) + 2 * GRID, len(self.styles))  # texture is seen at every scale
        self.count = nn.Linear(widths[-1], len(COUNTS))

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Judge:
        """The bundled judge, ready to use. The names of its classes come from the file's header.

        Raises:
            RequestError: the file is not there or is not whole.
        """
        file = Artifact.load(path).to(torch.float32)
        judge = cls(**{key: json.loads(file.metadata[key]) for key in ABOUT})
        judge.load_state_dict(file.tensors)
        judge.accuracy = json.loads(file.metadata["accuracy"])
        return judge.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Verdict:
        """Logits of pixels (N, 3, 64, 64) in [-1, 1]."""
        levels = self._levels(pixels)
        directions = functional.normalize(self.subject.weight.float(), dim=1)
        likeness = self._embed(levels[-1]) @ directions.T
        texture = torch.cat([*levels, _steps(pixels)], dim=1)
        last = levels[-1]
        return Verdict(SHARPNESS * likeness, self.background(last), self.style(texture), self.count(last))

    def features(self, pixels: Tensor) -> Tensor:
        """What pixels (N, 3, 64, 64) show, whatever is behind it: (N, D), L2-normalised, for distances."""
        return self._embed(self._levels(pixels)[-1])

    def looks(self, pixels: Tensor) -> Tensor:
        """What pixels (N, 3, 64, 64) look like at every scale, background and style too: (N, sum of widths).

        Each level's channels have the same length, and the mean square of all is 1. For distances between sets.
        """
        levels = torch.cat([functional.normalize(level, dim=1) for level in self._levels(pixels)], dim=1)
        return levels * (levels.shape[1] / len(self.widths)) ** 0.5

    @torch.no_grad()
    def judge(self, images: Sequence[Image.Image]) -> list[Opinion]:
        """An opinion of each picture."""
        return [opinion for chunk in chunks(images) for opinion in self._opinions(self(self._pixels(chunk)))]

    def relation_right(self, images: Sequence[Image.Image], asked: Sequence[Related]) -> list[bool]:
        """Whether the half where the first subject should be shows it, and the other half the second."""
        return [saw == [it.first, it.second] for saw, it in zip(self.related(images, asked), asked, strict=True)]

    @torch.no_grad()
    def related(self, images: Sequence[Image.Image], asked: Sequence[Related]) -> list[list[str]]:
        """What each picture shows where the first subject should be, and where the second (`relations.halves`)."""
        parts = [halves(self._pixels([image]), it.relation)[0] for image, it in zip(images, asked, strict=True)]
        best = [self(torch.cat(list(chunk))).subject.argmax(dim=1) for chunk in chunks(parts)]
        return [[self.subjects[i] for i in pair] for chunk in best for pair in chunk.view(-1, 2).tolist()]

    def references(self, pictures: Mapping[str, Sequence[Image.Image]]) -> References:
        """References from one's own pictures: name -> pictures of it."""
        names = tuple(name for name, images in pictures.items() for _ in images)
        return References(names, self._features([image for images in pictures.values() for image in images]))

    @cached_property
    def world_references(self) -> References:
        """Twelve real plain scenes of every subject that the judge knows; drawn once and kept in memory."""
        from ..bundled import world

        def drawn(number: int, name: str) -> list[Image.Image]:
            seeds = [(REFERENCE_SEED, number, i) for i in range(REFERENCES_EACH)]
            return [world.draw(world.scene(np.random.default_rng(s), (name,), styles=("plain",)), SIDE) for s in seeds]

        return self.references({name: drawn(i, name) for i, name in enumerate(self.subjects)})

    def recognise(self, images: Sequence[Image.Image], references: References | None = None) -> list[Recognition]:
        """The nearest reference of each picture; by default among real plain scenes of every subject of the world."""
        known = references or self.world_references
        likeness, nearest = (self._features(images) @ known.features.T).max(dim=1)
        return [Recognition(known.names[i], s) for i, s in zip(nearest.tolist(), likeness.tolist(), strict=True)]

    def _levels(self, pixels: Tensor) -> list[Tensor]:
        """The mean of each level's channels: (N, width) each, from fine to coarse."""
        x, means = self.stem(pixels), []
        for block in self.blocks:
            x = block(x)
            means.append(x.mean(dim=(2, 3)))
        return means

    def _embed(self, pooled: Tensor) -> Tensor:
        return functional.normalize(self.project(pooled).float(), dim=1)

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        return pixels(images).to(self.project.weight.device)

    @torch.no_grad()
    def _features(self, images: Sequence[Image.Image]) -> Tensor:
        found = [self.features(self._pixels(chunk)) for chunk in chunks(images)]
        return torch.cat(found) if found else self.subject.weight[:0]  # (0, D)

    def _opinions(self, verdict: Verdict) -> list[Opinion]:
        heads = (verdict.subject, verdict.background, verdict.style, verdict.count)
        return opinions(heads, (self.subjects, self.backgrounds, self.styles, COUNTS))


def _steps(pixels: Tensor) -> Tensor:
    """How much neighbours differ, by place in the grid and relative to their mean: logarithms, (N, 2 * GRID).

    Pixel art changes at the edges of its blocks alone; everything else changes anywhere.
    """
    across = (pixels - pixels.roll(1, 3)).abs().mean(dim=(1, 2))
    down = (pixels - pixels.roll(1, 2)).abs().mean(dim=(1, 3))
    places = [side.unflatten(1, (-1, GRID)).mean(dim=1) for side in (across, down)]
    steps = torch.cat(places, dim=1).clamp(min=1e-3).log()
    return steps - steps.mean(dim=1, keepdim=True)


def opinions(heads: Sequence[Tensor], names: Sequence[Sequence[str | int]]) -> list[Opinion]:
    """The likeliest of every head's classes, by name, with its probability. Logits (N, classes) each."""
    best = [logits.softmax(dim=1).max(dim=1) for logits in heads]
    sure = [head.values.tolist() for head in best]
    said: list[list[Any]] = [[n[i] for i in head.indices.tolist()] for n, head in zip(names, best, strict=True)]
    return [Opinion(*row) for row in zip(*said, *sure, strict=True)]


def chunks(things: Sequence[T], size: int = 128) -> list[Sequence[T]]:
    """At most `size` at once, in order."""
    return [things[i : i + size] for i in range(0, len(things), size)]
