"""Sums of whole differences that keep adapters from disturbing each other: TIES and DARE.

Both work on the differences themselves, module by module; a low-rank form of what they give is a truncation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ties(differences: Sequence[Tensor], density: float) -> Tensor:
    """Trim, elect signs, and average what agrees (Yadav et al. 2023, TIES-Merging, arXiv:2306.01708, algorithm 1).

    Args:
        differences: of the adapters, weights included, all of one shape.
        density: the share of numbers, the largest ones, that each keeps; the paper's is 0.2. The paper trims over all
            of a model, here it is each module by itself.
    """
    trimmed = [_trimmed(difference, density) for difference in differences]
    elected = sum(trimmed, torch.zeros_like(trimmed[0])).sign()
    agreeing, count = torch.zeros_like(elected), torch.zeros_like(elected)
    for difference in trimmed:
        agrees = (difference.sign() == elected) & (difference != 0)
        agreeing += difference * agrees
        count += agrees
    return agreeing / count.clamp(min=1)


def _trimmed(difference: Tensor, density: float) -> Tensor:
    """The largest numbers, the rest zero."""
    kept = max(1, round(density * difference.numel()))
    if kept >= difference.numel():
        return difference
    order = difference.abs().flatten().topk(kept, sorted=False).indices
    trimmed = torch.zeros_like(difference).flatten()
    trimmed[order] = difference.flatten()[order]
    return trimmed.view_as(difference)


def dare(differences: Sequence[Tensor], density: float, generators: Sequence[torch.Generator]) -> Tensor:
    """Drop numbers at random and scale up the rest, then add (Yu et al. 2023, arXiv:2311.03099, eq. 1 to 3).

    Args:
        differences: of the adapters, weights included, all of one shape.
        density: the share of numbers that stay; they are divided by it, so that the sum is right on average.
        generators: of the draws, one for each difference.
    """
    found = torch.zeros_like(differences[0])
    for difference, generator in zip(differences, generators, strict=True):
        found += difference * (torch.rand(difference.shape, generator=generator) < density) / density
    return found
