"""Objectives by which a concept is taken out of a base: what its prompts are to predict.

`model` and `noise` are concept ablation (Kumari et al. 2023, arXiv:2303.13516, eq. 4 and 5): on pictures of the anchor
that the base draws itself, the target's prompt learns to predict what the anchor's does, or the noise, with the
ordinary loss on the anchor beside it. `esd` leads away from what the base knows of the target, on latents that the
model makes of it (Gandikota et al. 2023, arXiv:2303.07345, eq. 7); `uce` solves for the weights that read the text
(Gandikota et al. 2024, arXiv:2308.14761, eq. 7). `default` begins with that solution and trains on: the base itself,
its changes taken off, teaches each prompt of the target what it predicts for the anchor's, and every other prompt what
it predicted before; and so that other words do not bring the target back, it learns the same of the states of the text
that would draw it best (`models.adversary`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .models.adversary import Attacks, moved
from .models.conditioning import Conditioning
from .models.partway import partway

WEIGHT = 2.0  # of what attacks reach: learned words then bring back less than at 1

if TYPE_CHECKING:
    from .data.lessons import Lessons
    from .models.latent_diffusion import LatentDiffusion, Noised


class Eraser(Protocol):
    """What an objective needs to know of the recipe that it is trained by."""

    config: Any
    model: LatentDiffusion
    lessons: Lessons

    def told(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts as the U-Net is told them."""

    def predicted(self, x: Noised, prompts: Sequence[str]) -> Tensor:
        """What the model predicts now beside prompts, (B, C, h, w)."""

    def known(self, x: Noised, prompts: Sequence[str]) -> Tensor:
        """What the base predicts."""


@dataclass(frozen=True)
class Method:
    """An objective, and how it is usually trained.

    Attributes:
        loss: of noisy pictures, the prompts that learn and those that teach, and what is attacked, if anything: (B,).
        train: which weights, as in `--train`.
        stays: whether targets' pictures, and those of what is to stay, are trained on beside anchors'.
        solved: whether it begins with the solution in closed form.
        unused: options that it has no use for.
    """

    loss: Callable[[Eraser, Noised, list[str], list[str], Attacks | None], Tensor]
    steps: int
    learning_rate: float
    train: str = "cross-attention"
    stays: bool = False
    solved: bool = False
    unused: tuple[str, ...] = ()

    @property
    def usual(self) -> dict[str, Any]:
        """Its own values of the options that methods differ in."""
        return {"steps": self.steps, "learning_rate": self.learning_rate, "train": self.train}


def asked(values: Mapping[str, Any]) -> Method:
    """The method that options ask for, as far as they have been read."""
    return METHODS.get(str(values.get("method", "default")), METHODS["default"])


def _apart(made: Tensor, wanted: Tensor) -> Tensor:
    return (made - wanted).square().mean((1, 2, 3))


def _default(it: Eraser, x: Noised, targets: list[str], anchors: list[str], attacks: Attacks | None) -> Tensor:
    wanted, told, rows = it.known(x, anchors), it.told(targets), [*range(len(targets))]
    pulls = x.t.new_zeros(0, dtype=torch.float)
    if attacks:
        found, pulls = moved(it.model, x[attacks.rows], it.told(attacks.prompts), attacks.offsets)
        told, rows = Conditioning.cat([told, found]), rows + attacks.rows
    error = _apart(it.model.predict(x.noisy[rows], x.t[rows], told).float(), wanted[rows])
    stays = torch.tensor([one == other for one, other in zip(targets, anchors, strict=True)], device=error.device)
    plain, reached = error.split([len(targets), len(pulls)])
    plain = torch.where(stays, it.config.regularise * plain, plain)
    attacked = torch.tensor(rows[len(targets) :], dtype=torch.long, device=error.device)
    return plain.index_add(0, attacked, WEIGHT * reached + pulls)


def _model(it: Eraser, x: Noised, targets: list[str], anchors: list[str], _: Attacks | None) -> Tensor:
    anchor = it.predicted(x, anchors)
    return _apart(it.predicted(x, targets), anchor.detach()) + it.config.regularise * x.error(anchor)


def _noise(it: Eraser, x: Noised, targets: list[str], anchors: list[str], _: Attacks | None) -> Tensor:
    return x.error(it.predicted(x, targets)) + it.config.regularise * x.error(it.predicted(x, anchors))


def _esd(it: Eraser, x: Noised, targets: list[str], anchors: list[str], _: Attacks | None) -> Tensor:
    blank = [""] * len(targets)
    noisy, t = partway(it.model, x.noise, it.lessons.told(targets), it.lessons.told(blank), x.t, steps=20, guidance=3)
    way = replace(x, noisy=noisy, t=t)
    empty = it.known(way, blank)
    return _apart(it.predicted(way, targets), empty - (it.known(way, targets) - empty))


METHODS = {
    "default": Method(_default, 240, 1e-4, "lora", stays=True, solved=True),
    "model": Method(_model, 100, 1.6e-5, unused=("retain", "attacks")),
    "noise": Method(_noise, 100, 1.6e-5, unused=("retain", "attacks")),
    "esd": Method(_esd, 200, 5e-5, unused=("retain", "regularise", "attacks", "snr_gamma", "v_like")),
    "uce": Method(_default, 0, 1e-4, solved=True, unused=("regularise", "attacks")),
}
