"""What is drawn: one `Shot` a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

STEPS, GUIDANCE = 20, 4.0

Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class Shot:
    """One picture to draw.

    Attributes:
        prompt: what to draw.
        seed: of the starting noise, and of the noise that stochastic samplers add.
        negative: what the guidance leads away from.
        steps: denoising steps.
        guidance: scale of classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598); 1 and less is without.
        width, height: in pixels; 0 is the base's own, or the picture's to begin from.
        towards: the prompt and the seed at the other end of the way, where the picture lies on one.
        share: how far along that way, from 0 to 1.
        where: who asked for it, as errors say it; empty where it was the command line.
    """

    prompt: str
    seed: int
    negative: str = ""
    steps: int = STEPS
    guidance: float = GUIDANCE
    width: int = 0
    height: int = 0
    towards: tuple[str, int] | None = None
    share: float = 0.0
    where: str = ""


def batches(shots: Sequence[Shot], most: int, size: Callable[[Shot], Size]) -> Iterator[list[Shot]]:
    """Neighbours that can be drawn together, at most so many: of one size, with the same steps and guidance."""
    for _, group in groupby(shots, lambda shot: (shot.steps, shot.guidance, size(shot))):
        alike = list(group)
        yield from (alike[start : start + most] for start in range(0, len(alike), most))
