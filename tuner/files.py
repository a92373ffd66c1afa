"""Atomic writes: a file or a folder is there whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_UMASK = os.umask(0)
os.umask(_UMASK)


def _settle(path: Path) -> None:
    """Bring a file or a folder's entries to the disk, readable by whom the user's umask lets read."""
    if path.is_file():  # safetensors makes its files private
        path.chmod(0o666 & ~_UMASK)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there takes its place at the end.

    After an error the old file stays and the temporary one is removed. Folders work as files do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        for file in [part, *part.rglob("*")] if part.is_dir() else [part]:
            _settle(file)
        if path.is_dir():  # rename cannot replace a folder that holds something: it steps aside first
            aside = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(aside)
            part.rename(path)
            shutil.rmtree(aside)
        else:
            part.replace(path)
        _settle(path.parent)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
