"""A folder of pictures and what they are called: captions beside them, in metadata.jsonl, or one for all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import RequestError
from .pictures import SUFFIXES


@dataclass(frozen=True)
class Example:
    """A picture's file and its caption ("" where it has none)."""

    path: Path
    caption: str


def read_folder(folder: Path) -> list[Example]:
    """The pictures of a folder, in the order of their names.

    Captions come from `metadata.jsonl` (`file_name`, `text`), else from NAME.txt or NAME.caption beside the picture.

    Raises:
        RequestError: there is no such folder, no picture in it, or its metadata cannot be used.
    """
    if not folder.is_dir():
        raise RequestError(f"--images {folder}: there is no such folder.")
    metadata = folder / "metadata.jsonl"
    if metadata.is_file():
        examples = _listed(folder, metadata)
    else:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        examples = [Example(file, _beside(file)) for file in files]
    if not examples:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise RequestError(f"--images {folder} holds no picture; put files of these kinds into it: {kinds}.")
    return examples


def _beside(picture: Path) -> str:
    for suffix in (".txt", ".caption"):
        file = picture.with_suffix(suffix)
        if file.is_file():
            return _text(file).strip()
    return ""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None


def _listed(folder: Path, metadata: Path) -> list[Example]:
    examples = []
    for number, line in enumerate(_text(metadata).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = str(row["file_name"]), str(row.get("text", ""))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise RequestError(f"{metadata}, line {number}: it must be a JSON object with `file_name`.") from None
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise RequestError(f"{metadata}, line {number}: `{name}` lies outside the folder.")
        examples.append(Example(folder / name, text.strip()))
    return examples
