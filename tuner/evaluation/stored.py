"""A report read back from its folder and checked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ..errors import RequestError
from .lines import Direction, Verdict
from .statistics import Figure

SCHEMA = 1


def _infinite(value: Any) -> Any:
    """JSON has no infinite numbers: the value of such a figure is null."""
    lost = isinstance(value, dict) and value.get("value", 0) is None
    return {**value, "value": math.inf} if lost else value


StoredFigure = Annotated[Figure, BeforeValidator(_infinite)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class StoredLine(_Part):
    """One of `figures`."""

    name: str
    about: str
    better: Direction
    verdict: Verdict
    after: StoredFigure
    before: StoredFigure | None
    change: StoredFigure | None


class StoredTable(_Part):
    """One of `tables`."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str | StoredFigure, ...], ...]
    note: str


class StoredRow(_Part):
    """A row of a grid; its pictures are paths within the report's folder."""

    label: str
    pictures: tuple[str, ...]


class StoredGrid(_Part):
    """One of `grids`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[StoredRow, ...]

    @model_validator(mode="after")
    def _even(self) -> StoredGrid:
        if any(len(row.pictures) % max(1, len(self.columns)) for row in self.rows):
            raise ValueError("its pictures do not fill its columns evenly")
        return self


class Stored(_Part):
    """A report as report.json holds it; `folder` is where it lies."""

    schema_: int = Field(alias="schema")
    tuner: str
    suite: str
    title: str
    judged: dict[str, str]
    settings: dict[str, str | int | float | None]
    figures: tuple[StoredLine, ...]
    tables: tuple[StoredTable, ...]
    grids: tuple[StoredGrid, ...]
    notes: tuple[str, ...]
    folder: Path = Field(default=Path(), exclude=True)

    def picture(self, name: str) -> Image.Image | None:
        """One of the report's pictures; None where it is missing, broken or not within the folder."""
        path = self.folder / name
        try:
            if not path.resolve().is_relative_to(self.folder.resolve()):
                return None
            with Image.open(path) as found:
                found.load()
                return found.copy()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None


def load(path: Path) -> Stored:
    """Read a report.json, or the one of a folder. What pictures are missing is told in a note.

    Raises:
        RequestError: it is missing, not JSON, no report, or of a newer schema.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"There is no report at {file}; name a report.json or the folder that holds one.") from None
    except OSError as error:
        raise RequestError(f"{file} cannot be read ({error.strerror}); name a report.json or its folder.") from None
    except (ValueError, RecursionError):
        raise RequestError(f"{file} is not JSON; name a report.json that `tuner evaluate` wrote.") from None
    version = found.get("schema") if isinstance(found, dict) else None
    if isinstance(version, int) and version > SCHEMA:
        raise RequestError(f"{file} has schema {version} and this tuner reads up to {SCHEMA}; install a newer tuner.")
    try:
        report = Stored.model_validate(found).model_copy(update={"folder": file.parent})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        why = f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        raise RequestError(f"{file} is no report of `tuner evaluate` ({why}); name one that it wrote.") from None
    names = [name for grid in report.grids for row in grid.rows for name in row.pictures]
    missing = sum(report.picture(name) is None for name in names)
    if not missing:
        return report
    told = f"{missing} of {len(names)} pictures are missing or broken in {file.parent}."
    return report.model_copy(update={"notes": (*report.notes, told)})
