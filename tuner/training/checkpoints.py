"""Checkpoints: what resuming needs, written atomically, checked by digest, in safetensors and JSON alone."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters.artifact import Artifact
from ..errors import RunError
from ..files import replacing, write_json


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after an optimizer step.

    Attributes:
        step: optimizer steps taken.
        tensors: name -> tensors of one kind ("weights", "optimizer", "average").
        state: whatever else there is, as JSON.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder/STEP` whole or not at all, then remove the oldest ones beyond `keep`."""
    path = folder / f"{checkpoint.step:07d}"
    with replacing(path) as part:
        part.mkdir()
        digests = {}
        for kind, tensors in checkpoint.tensors.items():
            Artifact(dict(tensors), {}).save(part / f"{kind}.safetensors")
            digests[kind] = _digest(part / f"{kind}.safetensors")
        write_json(part / "state.json", {"step": checkpoint.step, **checkpoint.state, "digests": digests})
    for old in sorted(folder.glob("[0-9]*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence for each newer one that is not.

    Raises:
        RunError: there are checkpoints, and none of them is whole.
    """
    complaints: list[str] = []
    paths = sorted(folder.glob("[0-9]*"), reverse=True)
    for path in paths:
        try:
            return _load(path), complaints
        except (OSError, ValueError, KeyError) as error:
            complaints.append(f"The checkpoint {path} is damaged ({error}); the one before it is used.")
    if paths:
        raise RunError(f"No checkpoint in {folder} is whole; remove the folder to start again from the first step.")
    return None, complaints


def _load(path: Path) -> Checkpoint:
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    tensors = {}
    for kind, digest in state.pop("digests").items():
        if _digest(path / f"{kind}.safetensors") != digest:
            raise ValueError(f"{kind}.safetensors does not match its digest")
        tensors[kind] = Artifact.load(path / f"{kind}.safetensors").tensors
    return Checkpoint(state.pop("step"), tensors, state)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and JSON. Nested names (bitsandbytes nests its own) are joined by `/`."""
    flat = dict(_leaves(optimizer.state_dict()["state"]))
    tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in flat.items() if name not in tensors}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Put back what `pack_optimizer` took."""
    state: dict[Any, Any] = {}
    for path, value in [*tensors.items(), *plain.items()]:
        first, *names, last = path.split("/")
        node = state.setdefault(int(first), {})
        for name in names:
            node = node.setdefault(name, {})
        node[last] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _leaves(node: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}/")
        else:
            yield f"{path}{name}", value
