"""A run's folder: everything that a run leaves, and nothing outside it.

config.toml     the resolved options: `tuner COMMAND --config config.toml` gives the same run again
metrics.jsonl   a line an optimizer step
checkpoints/    what resuming needs
samples/        pictures before and after, at fixed seeds
logs/           what `--track` asked for
README.md       the model card
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from .config import Options, common, flag, option, read_toml, write_toml
from .errors import RequestError
from .files import write_text

MAY_CHANGE = {
    "steps", "save_every", "keep", "sample_every", "validation_prompt", "samples", "cache", "resume", "out", "quiet",
    "dry_run", "batch_size", "accumulate", "track", "push_to_hub",
}  # fmt: skip
"""What may differ when a run is resumed. Batches may be cut into other parts; the global batch stays as it is."""


class RunOptions(Options):
    """What is trained on which base, and what the run keeps."""

    panel: ClassVar[str] = "Run"

    base: str = common("emoji", "What to start from: emoji (bundled), a diffusers folder, a file, or a Hub id.", "BASE")
    name: str = common("", "Name of the result; by default the folder's.", pattern=r"^[^/\\\x00-\x1f]*$")
    out: str = common("", "Folder of the run; by default runs/NAME, then runs/NAME-2, ...", "DIR")
    seed: int = common(0, "Seed of everything that is drawn.", ge=0)
    resume: bool = Field(False, description="Go on with the run in --out, or with the newest of that name.")
    save_every: int = Field(100, ge=0, description="Steps between checkpoints; 0 saves only at the end.")
    keep: int = Field(2, ge=1, description="Checkpoints that are kept.")
    sample_every: int = Field(0, ge=0, description="Steps between sample pictures; 0 makes them before and after only.")
    validation_prompt: list[str] = Field([], description="A prompt of the sample pictures; may be repeated.")
    samples: int = Field(2, ge=0, description="Sample pictures of each prompt; 0 draws none before and after.")
    track: list[Literal["tensorboard", "wandb"]] = Field(
        [], description="Write metrics and samples for this program too, into the run's logs/; repeatable."
    )
    push_to_hub: str = option("", "Send the result to this repository of the Hub, OWNER/NAME, in the end.", "ID")
    dry_run: bool = Field(False, description="All up to the first step, and what it would cost; writes nothing.")
    quiet: bool = Field(False, description="No progress bar; a plain line now and then.")


def recalled(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the run that `--resume` with `--out` or `--name` goes on with: they need not be given again."""
    if str(given.get("resume", False)).lower() != "true" or not (given.get("out") or given.get("name")):
        return {}
    folder = _to_resume(str(given.get("out", "")), str(given.get("name", "")))
    return {key: value for key, value in read_toml(folder / "config.toml").items() if key not in ("command", "out")}


def _to_resume(out: str, name: str) -> Path:
    """The folder of the run in `out`, else of the newest one of that name."""
    if out:
        candidates = [Path(out)]
    else:
        found = [p for p in Path("runs").glob("*") if p.name == name or p.name.rpartition("-")[0] == name]
        candidates = sorted(found, key=lambda p: p.stat().st_mtime)
    with_run = [p for p in candidates if (p / "config.toml").is_file()]
    if not with_run:
        raise RequestError(f"There is no run to resume in {out or f'runs/{name}'}; leave --resume out to start one.")
    return with_run[-1]


class Run:
    """A run's folder, locked while the run is alive.

    Attributes:
        folder: where it is.
        name: what its results are called.
        values: the resolved options, as they stand in config.toml.
    """

    def __init__(self, folder: Path, name: str, values: dict[str, Any]) -> None:
        self.folder, self.name, self.values = folder, name, values
        self.new = not (folder / "config.toml").exists()
        self._lock: int | None = None

    @classmethod
    def create(cls, config: RunOptions, command: str, name: str, writes: bool = True, processes: int = 1) -> Run:
        """Open the folder of a new run, or of the one that is resumed.

        Args:
            config: the options.
            command: what the user typed after `tuner`.
            name: of the result.
            writes: make the folder, lock it and write its config.toml.
            processes: that share the global batch.

        Raises:
            RequestError: --out holds another run, cannot be written, or is in use; or, on resume, there is no run to
                resume or an option differs that may not.
        """
        values = {"command": command, **config.model_dump(mode="json"), "name": name, "resume": False, "out": ""}
        folder = _to_resume(config.out, name) if config.resume else cls._fresh(config, name)
        run = cls(folder, name, values)
        if config.resume:
            run._check_unchanged(processes)
        if writes:
            run._open()
        return run

    @staticmethod
    def _fresh(config: RunOptions, name: str) -> Path:
        if config.out:
            folder = Path(config.out)
            if (folder / "config.toml").exists():
                raise RequestError(
                    f"--out {folder} holds another run; go on with it by --resume, or name a new folder."
                )
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise RequestError(f"--out {folder} is not an empty folder; name a new one.")
            return folder
        folder, number = Path("runs") / name, 1
        while folder.exists():
            number += 1
            folder = Path("runs") / f"{name}-{number}"
        return folder

    def _check_unchanged(self, processes: int) -> None:
        before = read_toml(self.folder / "config.toml")
        self.values["threads"] = before["threads"]  # one thread and two give other bits: the run keeps its own
        for key in before.keys() | self.values.keys():
            old, new = before.get(key), self.values.get(key)
            if old != new and key not in MAY_CHANGE:
                raise RequestError(
                    f"{flag(key)} was {old} when the run in {self.folder} started and is {new} now; "
                    "resume with the old value, or start a new run."
                )
        self._check_global_batch(processes)
        if self.values.get("steps", 0) <= self.steps_taken():  # nothing is left to do: the run stays as it is
            self.values = before

    def _check_global_batch(self, processes: int) -> None:
        """Pictures a step are what was learned from: they may be spread otherwise, but not become more or fewer."""
        rows = [row for row in self.metrics() if row.get("images")]
        if not rows or "batch_size" not in self.values:
            return
        before = rows[-1]["images"] // rows[-1]["step"]
        size, parts = self.values["batch_size"], self.values["accumulate"]
        if before != size * parts * processes:
            raise RequestError(
                f"The run in {self.folder} takes {before} pictures a step; --batch-size {size}, --accumulate {parts} "
                f"and {processes} process{'es' * (processes > 1)} make it {size * parts * processes}: make it {before}."
            )

    def _open(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(
                f"--out {self.folder} is in use by another process; wait for it or name another."
            ) from None
        except OSError as error:
            raise RequestError(f"--out {self.folder} cannot be written ({error.strerror}); name another.") from None
        write_text(self.folder / "config.toml", write_toml(self.values))

    def close(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def discard(self) -> None:
        """Take back the folder of a run that never began."""
        if self._lock is None or self.checkpoints.exists() or not self.new:
            return
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent == Path("runs"):
            with suppress(OSError):  # others are in it
                self.folder.parent.rmdir()

    # -- what a run keeps ----------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def finished(self) -> bool:
        return (self.folder / "README.md").is_file()

    def steps_taken(self) -> int:
        """The last step in metrics.jsonl."""
        return max((row["step"] for row in self.metrics()), default=0)

    def log(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl; a number that is not finite is null there, as JSON has none."""
        row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that a crash left half written is left out."""
        file = self.folder / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def cut_metrics(self, step: int) -> None:
        """Forget the lines after `step`: those steps will be taken again."""
        rows: Iterable[dict[str, Any]] = (row for row in self.metrics() if row["step"] <= step)
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
