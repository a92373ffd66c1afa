"""Large tensors in overlapping tiles, joined without seams."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor


def places(length: int, side: int) -> list[int]:
    """Where tiles of a side begin that cover a length, evenly, and overlap by a quarter at least."""
    if length <= side:
        return [0]
    count = 1 + math.ceil((length - side) / (side - side // 4))
    return [round(k * (length - side) / (count - 1)) for k in range(count)]


def window(height: int, width: int) -> Tensor:
    """The weights of a tile's values, (height, width): a raised cosine, all positive, 1 in the middle."""
    down, across = (torch.sin(math.pi * (torch.arange(n) + 0.5) / n).square() for n in (height, width))
    return down[:, None] * across


def tiled(
    values: Tensor, side: int, work: Callable[[Tensor], Tensor], most: int = 1, zoom: tuple[int, int] = (1, 1)
) -> Tensor:
    """`work(values)`, computed tile by tile where a side is longer than `side`; overlaps are blended by `window`.

    Args:
        values: (B, C, H, W).
        side: of a tile, in cells.
        work: (N, C, h, w) -> (N, D, h', w').
        most: examples that `work` gets at once, at least; a tile of all B goes together.
        zoom: the pixels of a cell in `values` and in the result: (1, 8) for a decoder, (8, 1) for an encoder.
    """
    inside, outside = zoom
    rows, columns = values.shape[-2] // inside, values.shape[-1] // inside
    if max(rows, columns) <= side:
        return work(values)
    high, wide = min(side, rows), min(side, columns)
    corners = list(product(places(rows, side), places(columns, side)))
    total = weights = torch.zeros(())
    weight = window(high * outside, wide * outside).to(values.device)
    group = max(1, most // len(values))
    for first in range(0, len(corners), group):
        chosen = corners[first : first + group]
        cut = [values[..., y * inside : (y + high) * inside, x * inside : (x + wide) * inside] for y, x in chosen]
        for (y, x), part in zip(chosen, work(torch.cat(cut)).float().chunk(len(chosen)), strict=True):
            if not total.ndim:
                total = part.new_zeros(*part.shape[:2], rows * outside, columns * outside)
                weights = part.new_zeros(rows * outside, columns * outside)
            spot = (slice(y * outside, (y + high) * outside), slice(x * outside, (x + wide) * outside))
            total[(..., *spot)] += part * weight
            weights[spot] += weight
    return (total / weights).to(values)
