"""What TensorBoard and Weights & Biases are told of a run (`--track`), by accelerate's trackers, into its folder."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..files import write_text

if TYPE_CHECKING:
    from PIL import Image

    from ..run import Run
    from .fit import Step

SHOWN = "loss", "grad_norm", "learning_rate"


def check(names: Sequence[str]) -> None:
    """See that the trackers can be had; imports none of them.

    Raises:
        RequestError: a package is missing.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise RequestError(f"--track {name} needs {name}: pip install {name}.")


class Tracking:
    """The trackers that a run asks for; none is a choice too. They begin with the first step that they are told of.

    A resumed run goes on with the same logs. Steps that it takes again take the place of the earlier ones.
    """

    def __init__(self, names: Sequence[str], run: Run) -> None:
        self._names, self._run = list(dict.fromkeys(names)), run
        self._begun: list[Any] | None = None

    @property
    def folder(self) -> Path:
        return self._run.folder / "logs"

    def step(self, step: Step) -> None:
        """Tell of an optimizer step."""
        for tracker in self._trackers(step.step):
            tracker.log({name: getattr(step, name) for name in SHOWN}, step=step.step)

    def pictures(self, sheet: Image.Image, step: int) -> None:
        """Show a sheet of samples as they are after step `step`."""
        import numpy as np

        for tracker in self._trackers(step):
            one = np.asarray(sheet.convert("RGB"))[None]  # (1, H, W, 3)
            order = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"samples": one}, step=step, **order)

    def close(self) -> None:
        """Bring everything to the disk."""
        for tracker in self._begun or []:
            tracker.finish()
        self._begun = None

    def _trackers(self, step: int) -> list[Any]:
        if self._begun is None:
            makers = {"tensorboard": self._tensorboard, "wandb": self._wandb}
            self._begun = [makers[name](step) for name in self._names]
            for tracker in self._begun:
                tracker.start()
        return self._begun

    def _tensorboard(self, step: int) -> Any:
        from accelerate.tracking import TensorBoardTracker

        return TensorBoardTracker("tensorboard", self.folder, purge_step=step)

    def _wandb(self, step: int) -> Any:
        """Weights & Biases knows a run by an id, which is kept beside its files."""
        from accelerate.tracking import WandBTracker

        os.environ.setdefault("WANDB_SILENT", "true")
        known = self.folder / "wandb-id"
        if not known.is_file():
            write_text(known, uuid.uuid4().hex[:12])
        name, config = self._run.name, self._run.values
        kept = {"id": known.read_text(encoding="utf-8"), "resume": "allow", "dir": str(self.folder)}
        return WandBTracker("tuner", name=name, config=config, **kept)
