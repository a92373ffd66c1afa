"""Whether a base knows what a prompt speaks of, told by the base alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..randomness import generator

if TYPE_CHECKING:
    from .latent_diffusion import LatentDiffusion

MADE_UP = "zqxw vrt", "blimf", "krastel ump"  # words that mean nothing to any base
LEVELS = 0.4, 0.6, 0.8  # of the timesteps


@torch.no_grad()
def explained(model: LatentDiffusion, moments: Tensor, prompt: str, words: str, seed: int = 0) -> float:
    """How much better than made-up words a prompt's own words explain pictures: a share of the prediction's error.

    Denoising errors under several texts tell which of them a picture shows (Li et al. 2023, arXiv:2303.16203, eq. 4).
    Of what a base does not know it draws something as well, which made-up words explain about as well.

    Args:
        moments: of pictures that the base has drawn of the prompt, (N, 2C, h, w).
        words: the words of the prompt whose meaning is in question.
    """
    told = model.encode_prompts([prompt, *(prompt.replace(words, other) for other in MADE_UP)])
    errors = []
    for number, level in enumerate(LEVELS):
        t = torch.full((len(moments),), int(level * model.timesteps), device=moments.device)
        shape = (len(moments), moments.shape[1] // 2, *moments.shape[2:])
        noise = torch.randn(shape, generator=generator(seed, "knowledge", number)).to(moments)
        latents = model.sample_latents(moments, torch.zeros_like(noise))
        noisy, wanted = model.add_noise(latents, noise, t), model.target(latents, noise, t)
        rows = [told[row : row + 1].repeated(len(moments)) for row in range(len(told))]
        errors.append([(model.predict(noisy, t, one) - wanted).square().mean().item() for one in rows])
    own, *others = torch.tensor(errors).mean(0).tolist()
    return 1 - own * len(others) / sum(others)
