"""What is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Judged:
    """What is judged.

    Attributes:
        name: what the report calls it.
        base: the base that draws; "" where finished pictures are judged.
        adapters: files on it, each with its weight.
        values: the options of the run that made it, by their names; empty where there was none.
        folder: the run's.
        subject: what prompts call what it learned; empty where nothing says it.
        control: the folder of a control network, with its weight: then it is that which is judged, on the base with the
            adapters.
    """

    name: str
    base: str = ""
    adapters: Sequence[tuple[Path, float]] = ()
    values: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    subject: str = ""
    control: tuple[Path, float] | None = None
