"""The processes of one run: what they do together, and how an error in one of them ends all, told once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TypeVar

import torch
from torch import Tensor

from ..errors import Interrupted, RequestError, RunError

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
Told = tuple[int, str] | None  # exit code and sentence of an error
GRACE = 1.0  # seconds that the first process has to speak before another one ends: launchers then end them all


def everywhere(machine: Accelerator, work: Callable[[], T]) -> T:
    """Do the work in every process. Where it fails in one, it fails in all, and the first process says why.

    Raises:
        RequestError, RunError: the work's own, or another process's.
        SystemExit: in the other processes, which say nothing.
    """
    if machine.num_processes == 1:
        return work()
    result, error, told = None, None, None
    try:
        result = work()
    except Exception as caught:
        error, told = caught, (_code(caught), _sentence(caught))
    failed = [(rank, known) for rank, known in enumerate(_gathered(told)) if known]
    if not failed:
        return result  # type: ignore[return-value]
    rank, (code, sentence) = failed[0]
    if not machine.is_main_process:
        leave(code)
    if error is not None:
        raise error
    raise (RequestError if code == 2 else RunError)(f"In process {rank + 1} of {machine.num_processes}: {sentence}")


def shared(machine: Accelerator, work: Callable[[], T]) -> T:
    """Do the work in the first process alone; its result, plain values, for all."""
    done = everywhere(machine, lambda: work() if machine.is_main_process else None)
    return done if machine.num_processes == 1 else _gathered(done)[0]  # type: ignore[return-value]


@contextmanager
def ending(machine: Accelerator, folder: object) -> Iterator[None]:
    """Within, the first process alone tells how the run ends: by an error that all share, or because one has gone."""
    try:
        yield
    except (RequestError, RunError, Interrupted) as error:
        if not machine.is_main_process:
            leave(_code(error))
        raise
    except RuntimeError as error:
        if machine.num_processes == 1 or not _lost(error):
            raise
        if not machine.is_main_process:
            leave(1)
        raise RunError(
            f"Another process of this run has ended; go on from the last checkpoint with --resume --out {folder}."
        ) from error


def leave(code: int) -> NoReturn:
    """End one of the other processes, without a word."""
    time.sleep(GRACE)
    raise SystemExit(code)


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


def _gathered(value: T) -> list[T]:
    """Every process's value, in order."""
    values: list[T] = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _lost(error: RuntimeError) -> bool:
    """Whether a collective operation has failed because a process has gone."""
    words = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or "gloo" in words or "connection closed" in words


def _code(error: Exception) -> int:
    return 2 if isinstance(error, RequestError) else 130 if isinstance(error, Interrupted) else 1


def _sentence(error: Exception) -> str:
    known = isinstance(error, RequestError | RunError | Interrupted)
    return str(error) if known else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
