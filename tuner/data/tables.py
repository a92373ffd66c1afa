"""Metadata tables beside pictures: `metadata.jsonl`, `.csv` or `.parquet` with `file_name` and a caption.

These are the files of Hugging Face's imagefolder. They are read here with what `datasets` itself reads them with, and
not through it: it would copy every table into its cache, and it does not say in which line a mistake is.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .pictures import SUFFIXES, shown

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # of several in one folder the first counts
COLUMNS = ("text", "caption", "prompt")


class BadTable(ValueError):
    """A table that cannot be read; the message names it and says why."""


@dataclass(frozen=True)
class Row:
    """A row of a table: where it stands, and what it says or what is wrong with it.

    Attributes:
        files: other pictures that it names, by column; `depth_file_name` is `depth`, as `datasets` has it.
    """

    where: str
    file_name: str = ""
    caption: str | None = None
    fault: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


def metadata_of(files: Iterable[Path]) -> list[Path]:
    """The tables among files, the ones that count before those that do not."""
    return sorted((f for f in files if f.name in NAMES and f.is_file()), key=lambda f: (NAMES.index(f.name), f))


def rows(table: Path) -> Iterator[Row]:
    """The rows of a table.

    Raises:
        BadTable: it cannot be read as a whole.
    """
    read = {".jsonl": _json, ".csv": _csv, ".parquet": _parquet}[table.suffix]
    yield from read(table)


def caption_in(row: Mapping[str, Any]) -> str | None:
    """The caption in a row: the first column of a known name that says something; of several captions the first."""
    for column in COLUMNS:
        value = row.get(column)
        value = value[0] if isinstance(value, list | tuple) and value else value
        if value is not None and not (isinstance(value, float) and value != value):
            return str(value)
    return None


def _row(where: str, values: Any) -> Row:
    if not isinstance(values, Mapping) or not isinstance(values.get("file_name"), str) or not values["file_name"]:
        return Row(where, fault="it must be a JSON object with `file_name`" if ".json" in where else "no `file_name`")
    name = _inside(values["file_name"])
    if name is None:
        return Row(where, fault=f"`{shown(values['file_name'])}` lies outside the folder")
    others = {str(column): text for column, text in values.items() if isinstance(text, str) and column != "file_name"}
    kinds = tuple(SUFFIXES)
    files = {column: _inside(text) for column, text in others.items() if text.lower().endswith(kinds)}
    named = {column.removesuffix("_file_name"): file for column, file in files.items() if file is not None}
    return Row(where, name, caption_in(values), files=named)


def _inside(name: str) -> str | None:
    """A file's name as the table's folder knows it; None where it leads out of it."""
    parts = name.replace("\\", "/").split("/")
    out = ".." in parts or name.startswith(("/", "\\")) or name[1:2] == ":" or "://" in name or "\0" in name
    return None if out else name if "\\" not in name else "/".join(parts)


def _text(table: Path) -> str:
    try:
        return table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadTable(f"{shown(table)} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise BadTable(f"{shown(table)} cannot be read ({error.strerror})") from None


def _json(table: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(table).split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            values = None
        yield _row(f"{shown(table)}, line {number}", values)


def _csv(table: Path) -> Iterator[Row]:
    reader = csv.DictReader(_text(table).splitlines(keepends=True))
    try:
        if "file_name" not in (reader.fieldnames or ()):
            raise BadTable(f"{shown(table)} has no column `file_name`; its first line must name the columns")
        for values in reader:
            yield _row(f"{shown(table)}, line {reader.line_num}", values)
    except csv.Error as error:
        raise BadTable(f"{shown(table)} cannot be read (line {reader.line_num}: {error})") from None


def _parquet(table: Path) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(table) as file:
            texts = {column.name for column in file.schema_arrow if str(column.type).endswith("string")}
            columns = [name for name in file.schema_arrow.names if name in {"file_name", *COLUMNS} | texts]
            values = file.read(columns).to_pylist()
    except (OSError, ValueError) as error:
        raise BadTable(f"{shown(table)} cannot be read ({' '.join(str(error).split())[:200]})") from None
    if "file_name" not in columns:
        raise BadTable(f"{shown(table)} has no column `file_name`")
    for number, row in enumerate(values, 1):
        yield _row(f"{shown(table)}, row {number}", row)
