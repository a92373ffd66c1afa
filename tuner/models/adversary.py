"""States of the text that bring back what was taken out: what training has to withstand.

A target whose prompts draw something else is not gone: other words may still draw it, and learned ones find it within a
few steps, as textual inversion does (Pham et al. 2023, arXiv:2308.01508). Where training is told in every step which
states of the text would draw the target best (Zhang et al. 2024, arXiv:2405.15234), there are none left in the end.
These are searched in the states themselves, of which no word reaches more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .conditioning import Conditioning
    from .latent_diffusion import LatentDiffusion, Noised

STRIDE = 0.2  # of the states' own norm, a step
SCALE = 1024.0  # of the error: half precision holds its gradients then


def nearest(model: LatentDiffusion, x: Noised, told: Conditioning, steps: int) -> Conditioning:
    """Of the states of the text near those that are told, such as draw the pictures: by steps of the gradient's length.

    Projected gradient descent (Madry et al. 2018, arXiv:1706.06083) on the denoising error, for each example alone. The
    token that opens every prompt is the same in all, and stays.

    Args:
        x: noisy pictures, B of them. told: B rows, from where the search starts.
    """
    states = told.hidden.detach()
    stride = STRIDE * states[:, 1:].flatten(1).norm(dim=1)[:, None, None]
    for _ in range(steps):
        states.requires_grad_(True)
        error = x.error(model.predict(x.noisy, x.t, replace(told, hidden=states)))
        slope = torch.autograd.grad(SCALE * error.sum(), states)[0].float()
        slope[:, 0] = 0
        length = slope.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None]
        states = (states - (stride * slope / length).to(states)).detach()
    return replace(told, hidden=states)
