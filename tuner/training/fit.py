"""fit: the only training loop. It yields a Step after each optimizer step; everything else happens around it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import Interrupted, RunError
from . import checkpoints, optimizers
from .processes import check_equal
from .state import State
from .stopping import stoppable

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..data.source import Source
    from ..recipe import Recipe
    from ..run import Run

PATIENCE, PATIENCE_FP16 = 5, 20  # updates in a row that may be skipped; fp16 first has to find its scale


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes:
        step: its number, from 1.
        loss: mean over the global batch.
        grad_norm: before clipping.
        learning_rate: what it was taken with.
        seconds: since the step before.
        images: pictures seen so far, over all processes.
        averaged: inside `with step.averaged():` the recipe holds the averaged weights (`--ema`).
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    seconds: float
    images: int
    averaged: Callable[[], AbstractContextManager[None]] = nullcontext

    def row(self) -> dict[str, float | int]:
        """The line of metrics.jsonl."""
        names = ("step", "loss", "grad_norm", "learning_rate", "seconds", "images")
        return {name: getattr(self, name) for name in names}


def fit(
    recipe: Recipe, source: Source, run: Run, accelerator: Accelerator, say: Callable[[str], None] = print
) -> Iterator[Step]:
    """Train what of `recipe` requires gradients, on `source`, up to `config.steps` optimizer steps.

    Every random draw is a function of (seed, step, position in the global batch), so a run that was resumed, that
    accumulates or that is spread over processes takes the same steps. At the end the recipe holds the averaged weights
    where `ema` asks for them.

    Args:
        say: told, in a sentence, of what the user should know.

    Raises:
        RunError: the loss or the gradients are not finite, several times in a row. The last checkpoint is kept.
        Interrupted: SIGINT or SIGTERM; the step was finished and a checkpoint saved.
    """
    config = recipe.config
    state = State(recipe, accelerator.scaler)
    factor = optimizers.learning_rate(config)
    first = _resumed(state, run, accelerator, say)
    check_equal(accelerator, state.trained, first)
    recipe.averages = state.averages
    wrapped, optimizer = accelerator.prepare(recipe, state.optimizer, device_placement=[False, False])
    peaks = [group["lr"] for group in optimizer.param_groups]
    wrapped.train()
    skipped, clock = 0, time.perf_counter()
    with stoppable(accelerator.num_processes) as asked:
        for step in range(first, config.steps):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor(step)
            loss = _accumulated(wrapped, source, accelerator, config, step)
            norm = accelerator.clip_grad_norm_(state.trained.values(), config.clip or math.inf)
            mean, length, stops = _known_to_all(accelerator, loss, norm, asked())
            finite = math.isfinite(mean) and math.isfinite(length)
            skipped = 0 if finite else skipped + 1
            if finite or accelerator.scaler:  # the scaler itself leaves a step out, and then lowers its scale
                optimizer.step()
            optimizer.zero_grad()
            if skipped >= (PATIENCE_FP16 if accelerator.scaler else PATIENCE):
                raise RunError(
                    f"The loss or its gradient was not finite in {skipped} steps in a row, up to step {step + 1}; the "
                    f"last good checkpoint is in {run.checkpoints}. Try a lower --learning-rate or --precision fp32."
                )
            if finite:
                recipe.after_step(step + 1)
                state.take_average()
            now = time.perf_counter()
            rate, images = optimizer.param_groups[0]["lr"], (step + 1) * source.global_batch
            yield Step(step + 1, mean, length, rate, now - clock, images, state.averaged)
            clock = now
            stops = stops or (asked() and accelerator.num_processes == 1)
            if (config.save_every and (step + 1) % config.save_every == 0) or stops or step + 1 == config.steps:
                _save(state, run, accelerator, step + 1, config.keep)
            if stops and step + 1 < config.steps:
                accelerator.wait_for_everyone()  # a launcher ends all processes when one of them ends
                raise Interrupted(f"Stopped after step {step + 1}; go on with --resume --out {run.folder}.")
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    state.keep_average()


def _accumulated(wrapped: Any, source: Source, accelerator: Accelerator, config: Any, step: int) -> Tensor:
    """Forward and backward over this process's share of a global batch; the mean loss, ()."""
    total = torch.zeros((), device=accelerator.device)
    for part in range(config.accumulate):
        start = (part * accelerator.num_processes + accelerator.process_index) * config.batch_size
        batch = source.batch(step, range(start, start + config.batch_size), accelerator.device)
        last = part + 1 == config.accumulate
        with nullcontext() if last else accelerator.no_sync(wrapped):
            losses = wrapped(batch)
            loss = (losses if batch.weight is None else losses * batch.weight).mean() / config.accumulate
            accelerator.backward(loss)
        total += loss.detach()
    return total


def _known_to_all(accelerator: Accelerator, loss: Tensor, norm: Tensor, asked: bool) -> tuple[float, float, bool]:
    """The mean loss, the gradient's norm and whether any process was asked to stop: a step's one synchronisation."""
    mine = torch.stack([loss, torch.full_like(loss, float(asked))])
    mean, stops, length = torch.cat([accelerator.reduce(mine, "mean"), norm.float().reshape(1)]).tolist()
    return mean, length, stops > 0


def _save(state: State, run: Run, accelerator: Accelerator, step: int, keep: int) -> None:
    if accelerator.is_main_process:
        state.save(run.checkpoints, step, keep)


def _resumed(state: State, run: Run, accelerator: Accelerator, say: Callable[[str], None]) -> int:
    """Put back the newest checkpoint, if there is one; the number of steps already taken."""
    found, complaints = checkpoints.newest(run.checkpoints)
    for sentence in complaints:
        say(sentence)
    if accelerator.is_main_process:
        run.cut_metrics(found.step if found else 0)  # the steps after it are taken again
    if found is None:
        return 0
    state.restore(found, run.checkpoints)
    return found.step
