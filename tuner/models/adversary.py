"""States of the text that bring back what was taken out: what training has to withstand.

A target whose prompts draw something else is not gone: other words may still draw it, and learned ones find it within a
few steps, as textual inversion does (Pham et al. 2023, arXiv:2308.01508). Where training is told which states of the
text would draw the target best (Zhang et al. 2024, arXiv:2405.15234), few are left in the end. They are sought
in the states themselves, of which no word reaches more, and learned beside the weights, as offsets to what words say:
what one step has found the next goes on with, so that one step of the search is enough in each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .conditioning import Conditioning

if TYPE_CHECKING:
    from ..data.batch import Batch
    from .latent_diffusion import LatentDiffusion, Noised

RATE = 0.2  # a step, of the states' root mean square: how fast offsets learn
BOUND = 1.0  # weight decay of offsets: those that go far from what words say reach other things, and take these along
PULL = 1e-2  # the length of their gradient, small beside that of the weights, as both are clipped together
SCALE = 1024.0  # of the error: half precision holds its gradients then


@dataclass(frozen=True)
class Attacks:
    """Which examples are attacked.

    Attributes:
        rows: of the batch, A of them.
        prompts: where each search starts, A.
        offsets: (A, L, D), of parameters; in root mean squares of the states.
    """

    rows: list[int]
    prompts: list[str]
    offsets: Tensor


class Searches(torch.nn.Module):
    """For words that bring targets back: offsets that an optimizer learns, from a target's words or its anchor's.

    Args:
        number: a target's prompts, and which of the targets it is.
        count: searches for each target, which start from its words and its anchor's in turns.
    """

    def __init__(self, model: LatentDiffusion, number: Mapping[str, int], count: int) -> None:
        super().__init__()
        self.number, self.count = number, count
        with torch.no_grad():
            shape = model.encode_prompts([""]).hidden.shape[1:]
        self.offsets = torch.nn.Parameter(torch.zeros((1 + max(number.values())) * count, *shape, device=model.device))

    def on(self, batch: Batch, targets: Sequence[str], anchors: Sequence[str]) -> Attacks:
        """One on each picture of a target, whose prompt is to learn what its anchor's predicts."""
        turns = batch.draw.here.integers("attack", self.count).tolist()
        rows = [i for i, shown in enumerate(batch.captions) if shown == targets[i] != anchors[i]]
        places = [self.number[targets[i]] * self.count + turns[i] for i in rows]
        return Attacks(rows, [(targets[i], anchors[i])[turns[i] % 2] for i in rows], self.offsets[places])

    def group(self, rate: float | None = RATE) -> dict[str, Any]:
        """The optimizer's parameter group; without a rate where optimizers find their own."""
        own = {} if rate is None else {"lr": rate}
        return {"params": [self.offsets], "weight_decay": BOUND, "matrices": False, **own}


def moved(model: LatentDiffusion, x: Noised, told: Conditioning, offsets: Tensor) -> tuple[Conditioning, Tensor]:
    """The states of the text moved by offsets; and what lets an optimizer's step make these draw the pictures better.

    The latter is 0 for each example, (A,), with the gradient of the denoising error in the offsets, of which only the
    direction counts: so the loss that the weights minimise and the search that it is to withstand are one loss. The
    token that opens every prompt is the same in all, and stays.

    Args:
        x: noisy pictures, A of them. told: A rows.
    """
    if not len(offsets):
        return told, offsets.sum((1, 2))  # without an example, too, the offsets have their part in the loss
    size = told.hidden[:, 1:].flatten(1).square().mean(dim=1).sqrt()[:, None, None]
    states = (told.hidden + (size * offsets).to(told.hidden)).detach().requires_grad_(True)
    error = x.error(model.predict(x.noisy, x.t, replace(told, hidden=states)))
    slope = torch.autograd.grad(SCALE * error.sum(), states)[0].float()
    slope[:, 0] = 0
    slope = slope / slope.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None]
    pull = (PULL * slope * offsets).sum((1, 2))
    return replace(told, hidden=states.detach()), pull - pull.detach()
