"""SIGINT and SIGTERM: the first asks for an end after the step, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ECHO = 1.0  # seconds in which a launcher may pass on to its processes what the terminal has told them already


@contextmanager
def stoppable(processes: int = 1) -> Iterator[Callable[[], bool]]:
    """Within, signals are noted; what is yielded says whether one has come.

    Args:
        processes: of the run. Where there are several, a second signal within `ECHO` is taken for the first one's echo.
    """
    asked: list[float] = []

    def handler(number: int, _frame: Any) -> None:
        now = time.monotonic()
        if asked and (processes == 1 or now - asked[0] > ECHO):
            os._exit(128 + number)
        asked.append(now)

    try:
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are another's business
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, old in before.items():
            signal.signal(number, old)
