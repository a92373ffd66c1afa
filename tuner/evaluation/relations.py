"""Pictures of one subject beside another: what was asked for, in words, and the two halves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
HIGH = 0.68  # the side of the square around a half, as a share of the picture's
ASIDE = ("left of", "right of")


class Related(NamedTuple):
    """`first` is `relation` (left of, right of, above, below) `second`."""

    first: str
    relation: str
    second: str


def relation_text(it: Related) -> str:
    """In words: "a dog left of a car"."""
    return f"a {it.first} {it.relation} a {it.second}"


def moved(it: Related) -> list[Related]:
    """The same two along the other axis, either way."""
    return [it._replace(relation=other) for other in OPPOSITE if (other in ASIDE) != (it.relation in ASIDE)]


def halves(pixels: Tensor, relation: str) -> Tensor:
    """Where the first subject should be and where the second: (N, C, S, S) -> (N, 2, C, S, S).

    Each is the square around a half, across the middle 0.68 of the picture, its sides continued by the half's edges,
    enlarged to the size of the picture.
    """
    side = pixels.shape[-1]
    upright = pixels if relation in ASIDE else pixels.transpose(2, 3)  # the two are left and right now
    start = round(side * (1 - HIGH) / 2)
    high, wide = side - 2 * start, side // 2
    middle = upright[:, :, start : start + high]
    left = (high - wide) // 2
    margins = (left, high - wide - left, 0, 0)
    parts = [functional.pad(half, margins, mode="replicate") for half in (middle[..., :wide], middle[..., -wide:])]
    large = [functional.interpolate(p, (side, side), mode="bicubic", align_corners=False).clamp(-1, 1) for p in parts]
    if relation in ("right of", "below"):
        large.reverse()
    found = torch.stack(large, dim=1)
    return found if relation in ASIDE else found.transpose(3, 4)
