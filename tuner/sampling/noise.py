"""The noise that pictures begin from: a function of their seeds alone, the same on every device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from .shots import Shot


def starts(shots: Sequence[Shot], shape: tuple[int, int, int]) -> tuple[Tensor, list[Generator]]:
    """The starting noise of pictures, (B, *shape), and their generators, which stochastic samplers go on with.

    On the way between two seeds the noise turns from one's to the other's; what is added later is the first one's.
    """
    generators = [torch.Generator("cpu").manual_seed(shot.seed) for shot in shots]
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    for row, shot in enumerate(shots):
        if shot.towards and shot.towards[1] != shot.seed:
            end = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(shot.towards[1]))
            noise[row] = slerp(noise[row], end, shot.share)
    return noise, generators


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Spherical interpolation (Shoemake 1985, "Animating rotation with quaternion curves") of two tensors of one shape.

    Noise on the way keeps the length of noise, which a straight line between them would not. Where the two point the
    same way or opposite ways there is no one circle, and the line is taken.
    """
    cosine = torch.dot(start.flatten().double(), end.flatten().double()) / (start.double().norm() * end.double().norm())
    angle = cosine.clamp(-1, 1).acos()
    if angle.sin() < 1e-6:
        return torch.lerp(start, end, share)
    first, second = ((1 - share) * angle).sin() / angle.sin(), (share * angle).sin() / angle.sin()
    return (first * start.double() + second * end.double()).to(start)
