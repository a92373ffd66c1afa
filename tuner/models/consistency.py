"""Consistency functions of latent diffusion: from anywhere on a teacher's way from noise to a picture, where it ends.

The function and its boundary: Song et al. 2023 (arXiv:2303.01469), section 3 and appendix C. In latent space, with a
guided teacher and steps that skip: Luo et al. 2023 (arXiv:2310.04378), section 4. The way cut into phases, each with an
end of its own: Wang et al. 2024 (arXiv:2405.18407), section 3.1. The teacher's steps are DDIM's: Song et al. 2021
(arXiv:2010.02502), eq. 12, eta 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import RequestError

if TYPE_CHECKING:
    from .latent_diffusion import LatentDiffusion

SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0  # LCM's, and those of diffusers' LCMScheduler
HUBER = 1e-3
WIDTH = 256  # of the embedding of guidance in the published latent consistency models


def scalings(t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out, (B, 1, 1, 1), at timesteps (B,) from where the function is the identity."""
    scaled = TIMESTEP_SCALING * t.double().view(-1, 1, 1, 1)
    both = scaled.square() + SIGMA_DATA**2
    return (SIGMA_DATA**2 / both).float(), (scaled / both.sqrt()).float()


@dataclass(frozen=True)
class Way:
    """A teacher's way: `steps` timesteps at equal distances, the last one where there is nothing but noise.

    It leads to the picture itself, for which timestep 0 stands. (The schedule has a little noise there; with it, as in
    LCM's own code, not even the right function would agree with itself on the first step.)

    Attributes:
        model: whose schedule and kind of prediction it is.
        steps: of the whole way; they divide the schedule.
        phases: parts that end each at a timestep of its own; they divide the steps. With one it ends at the picture.
    """

    model: LatentDiffusion
    steps: int
    phases: int = 1

    @classmethod
    def of(cls, model: LatentDiffusion, steps: int, phases: int = 1) -> Way:
        """A base's way.

        Raises:
            RequestError: the steps do not divide its schedule, or it is no teacher but was distilled itself.
        """
        if model.timesteps % steps:
            raise RequestError(f"--teacher-steps {steps} does not divide this base's {model.timesteps}; take 50, say.")
        if steps > model.timesteps // 2:
            raise RequestError(f"--teacher-steps {steps} leaves no way to go at a step; take 50, say.")
        if model.unet.config.time_cond_proj_dim is not None:
            raise RequestError(f"--base {model.identity} was distilled already; name the base that it came from.")
        return cls(model, steps, phases)

    def at(self, number: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of steps (B,), numbered from 0: where each begins, where it leads, where its phase ends; timesteps, (B,)."""
        skip, phase = self.model.timesteps // self.steps, self.steps // self.phases
        edge = number // phase * phase
        begin, then, end = ((count * skip - 1).clamp(min=0) for count in (number + 1, number, edge))
        return begin, then, end

    def stepped(self, noisy: Tensor, prediction: Tensor, t: Tensor, then: Tensor) -> Tensor:
        """DDIM's step from timesteps t to `then`, (B,) both: (B, C, h, w)."""
        latents, noise = self.model.separated(noisy, prediction, t)
        return torch.where(then.view(-1, 1, 1, 1) > 0, self.model.add_noise(latents, noise, then), latents)

    def end(self, noisy: Tensor, prediction: Tensor, t: Tensor, edge: Tensor) -> Tensor:
        """The consistency function: where the way from noisy latents at t ends, (B, C, h, w).

        At the edge itself it is the identity.
        """
        skip, out = scalings(t - edge)
        return skip * noisy + out * self.stepped(noisy, prediction, t, edge)


def huber(difference: Tensor) -> Tensor:
    """The pseudo-Huber distance sqrt(d^2 + c^2) - c of each value, on average, (B,).

    Song & Dhariwal 2023 (arXiv:2310.14189), section 3.3. It is written so that nothing is lost where d is small.
    """
    square = difference.square()
    return (square / ((square + HUBER**2).sqrt() + HUBER)).mean((1, 2, 3))


def embedded(guidance: Tensor, width: int) -> Tensor:
    """Scales of guidance (B,) as sines and cosines, (B, width), as diffusers' pipelines tell them to a U-Net.

    Kingma et al. 2021 (VDM, arXiv:2107.00630), of 1000 times what the scale is beyond 1.
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, device=guidance.device) * -(math.log(10000.0) / (half - 1)))
    angles = (guidance.float() - 1)[:, None] * 1000 * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


def tell_guidance(unet: Any) -> None:
    """Make a U-Net listen to the scale of guidance, in place: at first it makes no difference.

    diffusers calls it `time_cond_proj_dim`, and its pipelines then tell the scale and draw in one pass a step.
    """
    into = unet.time_embedding.linear_1
    listening = nn.Linear(WIDTH, into.in_features, bias=False, device=into.weight.device, dtype=into.weight.dtype)
    unet.time_embedding.cond_proj = listening
    nn.init.zeros_(listening.weight)
    unet.register_to_config(time_cond_proj_dim=WIDTH)


def reweighted(model: LatentDiffusion, weights: Mapping[str, Tensor]) -> LatentDiffusion:
    """The model with other weights of its U-Net, by name, for its predictions alone; nothing is copied."""
    other = copy(model)
    other.unet = _Reweighted(model.unet, weights)
    return other


class _Reweighted:
    """A U-Net that is called with other weights than its own."""

    def __init__(self, unet: nn.Module, weights: Mapping[str, Tensor]) -> None:
        self._unet, self._weights = unet, dict(weights)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return torch.func.functional_call(self._unet, self._weights, args, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._unet, name)
