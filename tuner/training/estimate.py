"""What a run would cost: memory and time, from one micro-batch that is really computed and learned from by nobody."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .optimizers import state_bytes

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..recipe import Recipe


@dataclass(frozen=True)
class Estimate:
    """What training is expected to take.

    Attributes:
        held: bytes that are there already: the weights, and on a CPU the program itself.
        batch: bytes at the peak of a micro-batch: activations, gradients, scratch.
        kept: bytes of the optimizer's memory and of the averaged weights.
        step: seconds an optimizer step.
        trained, total: parameters that train, and those of the whole model and of what trains beside it.
    """

    held: int
    batch: int
    kept: int
    step: float
    trained: int
    total: int

    def sentence(self, steps: int, device: str) -> str:
        """For people."""
        memory = self.held + self.batch + self.kept
        return (
            f"{self.trained:,} of {self.total:,} parameters train. About {_size(memory)} of {device} memory: "
            f"{_size(self.held)} for weights and program, {_size(self.batch)} for a batch, {_size(self.kept)} for the "
            f"optimizer. About {_duration(steps * self.step)} for {steps} steps of {self.step:.2g} s, without samples."
        )


def estimate(recipe: Recipe, machine: Accelerator) -> Estimate:
    """Compute a micro-batch forward and backward: once for its memory, then for its time. Nothing is updated."""
    config, trained = recipe.config, [p for p in recipe.parameters() if p.requires_grad]
    batch = recipe.source.batch(0, range(config.batch_size), machine.device)
    recipe.train()

    def work() -> None:
        with machine.autocast():
            losses = recipe(batch)
        losses.float().mean().backward()
        recipe.zero_grad(set_to_none=True)
        if machine.device.type == "cuda":
            torch.cuda.synchronize()

    held = _held(machine)
    peak = _peak(work, machine)
    step = min(_seconds(work) for _ in range(2)) * config.accumulate
    kept = state_bytes(config.optimizer, trained) + (sum(4 * p.numel() for p in trained) if config.ema else 0)
    modules = [part for part in vars(recipe.model).values() if isinstance(part, nn.Module)]
    every = [*recipe.parameters(), *(p for m in modules for p in m.parameters())]
    return Estimate(held, peak, kept, step, _count(trained), _count(every))


def _seconds(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _held(machine: Accelerator) -> int:
    if machine.device.type == "cuda":
        return int(torch.cuda.memory_allocated())
    import psutil

    return int(psutil.Process().memory_info().rss)


def _peak(work: Callable[[], None], machine: Accelerator) -> int:
    """The most memory that is allocated at once while `work` is done, beyond what was there before."""
    if machine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return int(torch.cuda.max_memory_allocated() - before)
    with Allocated() as allocated:
        work()
    return allocated.peak


class Allocated(TorchDispatchMode):
    """Within, the memory of all tensors that are made is counted, until they are gone; `peak` is in bytes.

    Tensors that autograd keeps for the backward pass are among them. Scratch inside an operation is not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._living: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        old = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            if storage._cdata not in old and storage._cdata not in self._living:
                self._count(storage, storage._cdata, storage.nbytes())
        return made

    def _count(self, storage: torch.UntypedStorage, key: int, size: int) -> None:
        def gone(_: Any) -> None:
            del self._living[key]
            self._now -= size

        self._living[key] = weakref.ref(storage, gone)
        self._now += size
        self.peak = max(self.peak, self._now)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _count(parameters: Iterable[torch.Tensor]) -> int:
    return sum({id(p): p.numel() for p in parameters}.values())


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
