"""Latents as a model itself makes them: on the way from noise to a picture, not a picture with noise added."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .conditioning import Conditioning

if TYPE_CHECKING:
    from .latent_diffusion import LatentDiffusion


@torch.no_grad()
def partway(
    model: LatentDiffusion,
    noise: Tensor,
    told: Conditioning,
    empty: Conditioning,
    t: Tensor,
    steps: int,
    guidance: float,
) -> tuple[Tensor, Tensor]:
    """What DDIM has made of noise when it comes by timestep t (Song et al. 2021, arXiv:2010.02502, eq. 12, eta 0).

    Args:
        noise: (B, C, h, w). told, empty: the prompts and the empty one, B rows each.
        t: (B,), where each example stops: at the nearest of the steps.
        steps: of the whole way. guidance: the scale of classifier-free guidance on it.

    Returns:
        The latents (B, C, h, w), and the timesteps where they are, (B,).
    """
    grid = torch.linspace(model.timesteps - 1, 0, steps + 1, device=t.device).round().long()
    stops = (grid[None, :-1] - t[:, None]).abs().argmin(1)  # (B,)
    x = noise.clone()
    for number in range(int(stops.max())):
        rows = (stops > number).nonzero()[:, 0]
        now, then = (grid[number + k].expand(len(rows)) for k in (0, 1))
        here, both = x[rows], Conditioning.cat([told[rows], empty[rows]])
        known, blank = model.predict(here.repeat(2, 1, 1, 1), now.repeat(2), both).chunk(2)
        latents, spread = model.separated(here, blank + guidance * (known - blank), now)
        x[rows] = model.add_noise(latents, spread, then)
    return x, grid[stops]
