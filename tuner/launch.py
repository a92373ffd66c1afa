"""Starting the processes of a run where `accelerate launch` was asked for several on a CPU and has started one.

`accelerate launch --cpu --num_processes 2` starts a single process (huggingface/accelerate#2741): it leaves the others
to MPI. Without a word, the run would train with half of the global batch. Here the processes are started as torchrun
starts them, by environment variables. Where accelerate or torchrun has done so already, nothing is done.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import RequestError

STARTED = ("RANK", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
PATIENCE = 60.0  # seconds that the other processes of a failed run have to end by themselves
POLL = 0.05
DEFAULT_PORT = "29500"  # accelerate's, which two launches at once would share


def launch() -> None:
    """Become the parent of the processes that `accelerate launch` was asked for, and end with their exit code.

    Does nothing where there is one process to run, or where they run already.
    """
    if not _left_alone(os.environ):
        return
    try:
        count = _asked_for()
    except RequestError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if count > 1:
        raise SystemExit(_family(count))


def _left_alone(environment: Mapping[str, str]) -> bool:
    """Whether accelerate's launcher meant several processes (it gives them an address) and started this one only."""
    meant = "MASTER_PORT" in environment and "ACCELERATE_MIXED_PRECISION" in environment
    if not meant or any(name in environment for name in STARTED):
        return False
    if environment.get("ACCELERATE_USE_CPU", "").lower() == "true":
        return True
    import torch

    return not torch.accelerator.is_available()


def _asked_for() -> int:
    """The number of processes that the launcher's command line names."""
    import psutil

    words = psutil.Process(os.getppid()).cmdline()
    count = _value(words, "num_processes")
    if count is None or _value(words, "num_machines") not in (None, "1"):
        raise RequestError(
            "accelerate launch starts one process on a CPU, and its command line does not say how many there should "
            "be; use torchrun --nproc-per-node N cli.py ... in its place."
        )
    return int(count)


def _value(words: Sequence[str], name: str) -> str | None:
    """The value of an option of the launcher, whose words end where the script's name begins."""
    pattern = re.compile(f"--{name.replace('_', '[_-]')}(?:=(.*))?")
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if found := pattern.fullmatch(word):
            return found[1] or following
    return None


def _family(count: int) -> int:
    """Run this command in `count` processes; the exit code of the first that fails."""
    call = [sys.executable, *sys.orig_argv[1:]]
    given = os.environ["MASTER_PORT"]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "ACCELERATE_USE_CPU": "true"}
    shared |= {"MASTER_PORT": given if given != DEFAULT_PORT else _free_port()}
    children = []
    for rank in range(count):
        own = os.environ | {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        # in a session of their own, so that a terminal's Ctrl-C comes to them once: through here
        children.append(subprocess.Popen(call, env=own, start_new_session=True))
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(number))
    return _watched(children, asked)


def _watched(children: Sequence[subprocess.Popen[Any]], asked: list[int]) -> int:
    """Wait for all. Signals go on to them, a launcher that has gone counts as one; after a failure all end."""
    parent, passed, code, deadline = os.getppid(), 0, 0, float("inf")
    while any(child.poll() is None for child in children):
        if os.getppid() != parent and not asked:
            asked.append(signal.SIGTERM)
        while passed < len(asked):
            _signal(children, asked[passed])
            passed += 1
        code = code or next((child.returncode for child in children if child.returncode), 0)
        deadline = min(deadline, time.monotonic() + PATIENCE) if code else deadline
        if time.monotonic() > deadline:
            _signal(children, signal.SIGKILL)
        time.sleep(POLL)
    code = code or next((child.returncode for child in children if child.returncode), 0)
    return code if code >= 0 else 128 - code


def _signal(children: Sequence[subprocess.Popen[Any]], number: int) -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
