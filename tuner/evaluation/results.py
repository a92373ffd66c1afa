"""What a run left, told from its files: adapters, a whole pipeline, a control network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Results:
    """Of each kind what there is.

    Attributes:
        adapters: the run's own file first, then what it was trained with, such as a token.
        pipeline: the folder of a base; None where there is none.
        control: the folder of a control network; None where there is none.
    """

    adapters: tuple[Path, ...] = ()
    pipeline: Path | None = None
    control: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.adapters or self.pipeline or self.control)


def results(folder: Path, name: str) -> Results:
    """What the run of this name left in its folder."""
    from ..models.control_folder import FOLDERS

    file, pipeline = folder / f"{name}.safetensors", folder / "pipeline"
    adapters = (file, *sorted(set(folder.glob("*.safetensors")) - {file})) if file.is_file() else ()
    controls = (path for path in (folder / kind for kind in FOLDERS.values()) if path.is_dir())
    return Results(adapters, pipeline if pipeline.is_dir() else None, next(controls, None))
