"""fit: the only training loop. It yields a Step after each optimizer step; everything else happens around it."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import Interrupted, RequestError, RunError
from . import checkpoints, optimizers

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
    trained = {name: p for name, p in recipe.named_parameters() if p.requires_grad}
    optimizer = optimizers.optimizer(config, recipe.groups())
    factor = optimizers.learning_rate(config)
    average = _average(config, trained)
    first = _resume(recipe, trained, optimizer, average, run, accelerator, say)
    wrapped, optimizer = accelerator.prepare(recipe, optimizer, device_placement=[False, False])
    peaks = [group["lr"] for group in optimizer.param_groups]
    wrapped.train()
    skipped, clock = 0, time.perf_counter()

    def save(step: int) -> None:
        if accelerator.is_main_process:
            tensors, plain = checkpoints.pack_optimizer(getattr(optimizer, "optimizer", optimizer))
            parts: dict[str, Mapping[str, Tensor]] = {
                "weights": {n: p.detach() for n, p in trained.items()},
                "optimizer": tensors,
            }
            if average:
                parts["average"] = dict(zip(trained, average.shadow_params, strict=True))
            scaler = accelerator.scaler.state_dict() if accelerator.scaler else None
            averaged = average.optimization_step if average else 0
            state = {"optimizer": plain, "scaler": scaler, "averaged": averaged}
            checkpoints.save(run.checkpoints, checkpoints.Checkpoint(step, parts, state), config.keep)

    with _stoppable() as stopped:
        for step in range(first, config.steps):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor(step)
            loss = _accumulated(wrapped, source, accelerator, config, step)
            norm = accelerator.clip_grad_norm_(trained.values(), config.clip or math.inf)
            mean, length = torch.stack([accelerator.reduce(loss, "mean"), norm.float()]).tolist()  # the one sync
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
                if average:
                    average.step(trained.values())
            now = time.perf_counter()
            images = (step + 1) * source.global_batch
            yield Step(
                step + 1, mean, length, optimizer.param_groups[0]["lr"], now - clock, images,
                lambda: _averaged(average, trained),
            )  # fmt: skip
            clock = now
            if (config.save_every and (step + 1) % config.save_every == 0) or stopped() or step + 1 == config.steps:
                save(step + 1)
            if stopped() and step + 1 < config.steps:
                raise Interrupted(f"Stopped after step {step + 1}; go on with --resume --out {run.folder}.")
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    if average:
        average.copy_to(trained.values())


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


def _average(config: Any, trained: Mapping[str, Tensor]) -> Any:
    if not config.ema:
        return None
    from diffusers.training_utils import EMAModel

    return EMAModel(trained.values(), decay=config.ema)


@contextmanager
def _averaged(average: Any, trained: Mapping[str, Tensor]) -> Iterator[None]:
    """The averaged weights in place of the current ones, for as long as the context lasts."""
    if average is None:
        yield
        return
    average.store(trained.values())
    average.copy_to(trained.values())
    try:
        yield
    finally:
        average.restore(trained.values())


def _resume(
    recipe: Recipe,
    trained: Mapping[str, Tensor],
    optimizer: Any,
    average: Any,
    run: Run,
    accelerator: Any,
    say: Callable[[str], None],
) -> int:
    """Put back the newest checkpoint, if there is one; the number of steps already taken."""
    found, complaints = checkpoints.newest(run.checkpoints)
    for sentence in complaints:
        say(sentence)
    if accelerator.is_main_process:
        run.cut_metrics(found.step if found else 0)  # the steps after it are taken again
    if found is None:
        return 0
    if found.tensors["weights"].keys() != trained.keys():
        raise RequestError(f"The checkpoint in {run.checkpoints} holds other parameters than this recipe trains.")
    with torch.no_grad():
        for name, value in found.tensors["weights"].items():
            trained[name].copy_(value)
    checkpoints.unpack_optimizer(optimizer, found.tensors["optimizer"], found.state["optimizer"])
    if average:
        average.shadow_params = [found.tensors["average"][name].to(p.device) for name, p in trained.items()]
        average.optimization_step = found.state["averaged"]
    if accelerator.scaler and found.state["scaler"]:
        accelerator.scaler.load_state_dict(found.state["scaler"])
    return found.step


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Within, SIGINT and SIGTERM ask the loop to stop after its step; a second one ends the process at once."""
    asked: list[int] = []

    def handler(number: int, _frame: Any) -> None:
        if asked:
            os._exit(128 + number)
        asked.append(number)

    try:
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are another's business
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, old in before.items():
            signal.signal(number, old)
