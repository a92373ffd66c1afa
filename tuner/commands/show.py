"""What a job shows while it works: a bar on a terminal, plain lines elsewhere and with `--quiet`."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

if TYPE_CHECKING:
    from rich.status import Status

    from ..training.fit import Step

SMOOTHING, WINDOW = 0.95, 20  # of the loss; of the rate, in steps
PATIENCE = 60.0  # seconds after which a plain line is due in any case
ROOM = 64  # columns for the words beside the bar
Words = Callable[[], str]


class Pace:
    """How a run goes: the smoothed loss, the rate, the time that is left."""

    def __init__(self) -> None:
        self._loss, self._weight = 0.0, 0.0
        self._seconds: deque[float] = deque(maxlen=WINDOW)

    def add(self, loss: float, seconds: float) -> None:
        """Take note of a step. A loss that is not finite was not learned from, and is left out."""
        if abs(loss) < float("inf"):
            self._loss = SMOOTHING * self._loss + (1 - SMOOTHING) * loss
            self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
        self._seconds.append(seconds)

    def words(self, left: int) -> str:
        """Loss, rate, and the time of `left` more steps; by the median, so that pauses for samples do not count."""
        seconds = statistics.median(self._seconds)
        rate = f"{1 / seconds:.1f} steps/s" if 0 < seconds < 1 else f"{seconds:.1f} s/step"
        loss = f"loss {self._loss / self._weight:.4f}" if self._weight else "loss not finite"
        return f"{loss}, {rate}, {duration(left * seconds)} left, {memory()}"


class Show:
    """Plain lines, for logs. What a terminal shows is in `Bar`."""

    def __init__(self) -> None:
        self._pace, self._last, self._tenths = Pace(), 0.0, 0

    def say(self, text: str) -> None:
        """A sentence."""
        print(text, flush=True)

    def working(self, text: str) -> AbstractContextManager[object]:
        """Something that takes a while and has no steps."""
        self.say(f"{text} ...")
        return nullcontext()

    def step(self, step: Step, total: int) -> None:
        """An optimizer step was taken."""
        self._pace.add(step.loss, step.seconds)
        tenths = 10 * step.step // total
        due, self._tenths = tenths > self._tenths, tenths
        self.count(step.step, total, "step", lambda: self._pace.words(total - step.step), due)

    def count(self, done: int, total: int, what: str, words: Words = str, due: bool = False) -> None:
        """So many of `total` are done. `words` says more, and is asked only when a line is due or a minute has gone."""
        now = time.monotonic()
        self._last = self._last or now
        if due or now - self._last >= PATIENCE:
            self._last = now
            self.say(f"{what} {done}/{total}" + (f": {more}" if (more := words()) else ""))

    def close(self) -> None:
        """No more steps."""


class Bar(Show):
    """A bar that stays in its place, on a terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._work: tuple[Status, str] | None = None

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        begun = time.monotonic()
        with self._console.status(f"{text} ...", refresh_per_second=5) as status:
            self._work = status, text
            try:
                yield
            finally:
                self._work = None
        self._console.print(f"{text}: {time.monotonic() - begun:.1f} s", style="dim", markup=False, highlight=False)

    def count(self, done: int, total: int, what: str, words: Words = str, due: bool = False) -> None:
        if self._work is not None:
            status, text = self._work
            status.update(f"{text}: {what} {done}/{total} ...")
            return
        if self._bar is None:
            width = max(5, min(30, self._console.width - ROOM))
            columns = (BarColumn(width), TextColumn("{task.description}", markup=False))
            self._bar = Progress(*columns, console=self._console, refresh_per_second=4)
            self._task = self._bar.add_task("", total=total)
            self._bar.start()
        told = f"{done}/{total} {words() or what + 's'}"
        self._bar.update(self._task, completed=done, description=told)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Silent(Show):
    """Says nothing: for the other processes of a distributed run."""

    def say(self, text: str) -> None:
        pass


def showing(quiet: bool) -> Show:
    """What suits this process and where its output goes."""
    if int(os.environ.get("RANK", 0)):
        return Silent()
    console = Console()
    return Bar(console) if console.is_interactive and sys.stdout.isatty() and not quiet else Show()


def duration(seconds: float) -> str:
    """`0:42`, `12:05`, `3:10:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def memory() -> str:
    """What the process holds: the peak on a GPU where one is used, else its memory now."""
    import psutil
    import torch

    on_gpu = torch.cuda.is_initialized() and torch.cuda.max_memory_allocated()
    return f"{(on_gpu or psutil.Process().memory_info().rss) / 2**30:.1f} GiB"
