"""The processes of one run: what they share, and how an error in any of them ends all and is told once."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ..errors import Interrupted, RequestError, RunError

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
GRACE = 1.0  # seconds by which the first process is ahead in telling an error that all have
PATIENCE = 10.0  # seconds that it waits for the others to notice an error


def shared(machine: Accelerator, work: Callable[[], T]) -> T:
    """Do the work in the first process alone; its result, plain values, for all."""
    done = work() if machine.is_main_process else None
    if machine.num_processes == 1:
        return done  # type: ignore[return-value]
    values = [done]
    torch.distributed.broadcast_object_list(values, device=machine.device)
    return values[0]  # type: ignore[return-value]


def check_equal(machine: Accelerator, trained: Mapping[str, Tensor], step: int) -> None:
    """See that all processes begin at the same step with the same weights; it costs one number a tensor.

    Raises:
        RunError: they do not.
    """
    if machine.num_processes == 1:
        return
    sums = [p.detach().double().square().sum() for p in trained.values()]
    mine = torch.stack([torch.tensor(float(step)).double().to(machine.device), *sums])
    different = (machine.gather(mine[None]) != mine).any(0)
    if different[0]:
        raise RunError("The processes of this run found different checkpoints; they must share one folder.")
    if different.any():
        name = list(trained)[int(different[1:].nonzero()[0])]
        raise RunError(f"The processes of this run began with different weights ({name}); draw them from the seed.")


@contextmanager
def ending() -> Iterator[None]:
    """Within, the process that fails first tells of it, and the others end without a word.

    An error that all have is told by the first process. One that a single process has is told by that one: the others
    wait for it in vain, find the connection closed (or are ended by the launcher), and follow with its exit code.

    Raises:
        RunError: another process has gone without telling why.
        SystemExit: in the other processes.
    """
    try:
        yield
    except Exception as error:
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            raise
        main, lost = not int(os.environ.get("RANK", 0)), _is_lost(error)
        if not main:
            time.sleep(GRACE)
        code = _code_of_the_first(_code(error), main)
        if code is not None:
            raise SystemExit(code) from None
        if lost:
            error = RunError("Another process of this run has ended; go on from its last checkpoint with --resume.")
        if main:
            raise error from None
        print(f"Error: {_sentence(error)}", file=sys.stderr, flush=True)
        raise SystemExit(_code(error)) from None


def _code_of_the_first(mine: int, main: bool) -> int | None:
    """The exit code of the process that failed first; None where this one is the first.

    The processes agree by the store through which they once met. Where that is gone, so is the first process.
    """
    if not torch.distributed.is_initialized():  # before they met all fail alike
        return None if main else mine
    try:
        store: Any = torch.distributed.distributed_c10d._get_default_store()
        first = store.add("tuner/failed", 1) == 1
        if first:
            store.set("tuner/code", str(mine))
        code = None if first else int(store.get("tuner/code"))
        if main:
            _see_off(store)
        elif code is not None:
            time.sleep(GRACE)  # launchers end all when one ends: the one that has something to say goes first
        return code
    except (RuntimeError, ValueError):
        return None if main else 1


def _see_off(store: Any) -> None:
    """Let the others end before this process, which may hold the store: its connections close, and they see it."""
    deadline = time.monotonic() + PATIENCE
    world = torch.distributed.get_world_size()
    if torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()  # closes the connections; the store stays
    while store.add("tuner/failed", 0) < world and time.monotonic() < deadline:
        time.sleep(0.05)


def _is_lost(error: Exception) -> bool:
    """Whether a collective operation has failed because a process has gone."""
    words = str(error).lower()
    told = isinstance(error, RunError) or not isinstance(error, RuntimeError)
    return not told and (isinstance(error, torch.distributed.DistError) or "gloo" in words or "connection" in words)


def _code(error: Exception) -> int:
    return 2 if isinstance(error, RequestError) else 130 if isinstance(error, Interrupted) else 1


def _sentence(error: Exception) -> str:
    known = isinstance(error, RequestError | RunError | Interrupted)
    return str(error) if known else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}."
