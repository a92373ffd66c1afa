"""The makers' plain supervised loop, for both judges. It can be stopped and goes on."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from ..training import checkpoints
from ..training.muon import Muon

WEIGHT_DECAY = 0.02
OFTEN = 50  # steps between reports and copies


def teach(
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    steps: int,
    learning_rate: float,
    keep: Path | None = None,
    say: Callable[[str], None] = print,
    matrices_rate: float = 0.0,
    within: Sequence[str] = (),
) -> None:
    """Train a model in place.

    Args:
        loss_of: the loss of a step, by the step's number alone.
        learning_rate: AdamW's highest; it rises over a tenth of the steps and falls to nothing.
        keep: a folder of what it goes on from when it was stopped. Removed at the end.
        matrices_rate: Muon's highest, for the matrices and kernels whose names hold one of `within`.
    """
    named = list(model.named_parameters())
    ours = {name for name, p in named if p.ndim > 1 and any(part in name for part in within)}
    groups = [
        {"params": [p for name, p in named if name not in ours], "lr": learning_rate, "matrices": False},
        {"params": [p for name, p in named if name in ours], "lr": matrices_rate},
    ]
    optimizer = Muon([group for group in groups if group["params"]], learning_rate, (0.9, 0.999), WEIGHT_DECAY)
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(_restored(model, optimizer, keep), steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * course(step / steps)
        loss = loss_of(step)
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.zero_grad()
        if (step + 1) % OFTEN == 0:
            say(f"step {step + 1} of {steps}: loss {loss.item():.3f}")
            _store(model, optimizer, step + 1, keep)
    if keep is not None:
        shutil.rmtree(keep, ignore_errors=True)


def course(share: float) -> float:
    """The learning rate's factor after a share of the steps: up over a tenth of them, then half a cosine down."""
    rise = 0.1
    if share < rise:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * share / rise)) / 2
    return (1 + math.cos(math.pi * (share - rise) / (1 - rise))) / 2


def _store(model: nn.Module, optimizer: Muon, done: int, keep: Path | None) -> None:
    if keep is not None:
        moments, plain = checkpoints.pack_optimizer(optimizer)
        tensors = {"weights": model.state_dict(), "optimizer": moments}
        checkpoints.save(keep, checkpoints.Checkpoint(done, tensors, {"optimizer": plain}), keep=1)


def _restored(model: nn.Module, optimizer: Muon, keep: Path | None) -> int:
    """The number of steps that were done."""
    found = checkpoints.newest(keep)[0] if keep is not None else None
    if found is None:
        return 0
    model.load_state_dict(dict(found.tensors["weights"]))
    checkpoints.unpack_optimizer(optimizer, found.tensors["optimizer"], found.state["optimizer"])
    return found.step
