"""Checkpoints: what resuming needs, written atomically, checked by digest, in safetensors and JSON alone."""

from __future__ import annotations

import hashlib
import json
import math
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
    """An optimizer's memory as named tensors and JSON.

    Nested names (bitsandbytes nests its own) are joined by `/`. What an optimizer notes in its parameter groups (as
    prodigy does with its estimates) is kept under `group/`, but for the learning rate: that is the schedule's.
    """
    kept = optimizer.state_dict()
    noted = {i: {k: v for k, v in g.items() if _is_noted(k, v)} for i, g in enumerate(kept["param_groups"])}
    flat = dict(_leaves(kept["state"])) | dict(_leaves(noted, "group/"))
    tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor)}
    return _apart(tensors), {name: value for name, value in flat.items() if name not in tensors}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Put back what `pack_optimizer` took."""
    state: dict[Any, Any] = {}
    groups = [dict(group) for group in optimizer.state_dict()["param_groups"]]
    for path, value in [*tensors.items(), *plain.items()]:
        first, *names, last = path.split("/")
        if first == "group":
            groups[int(names[0])][last] = value
            continue
        node = state.setdefault(int(first), {})
        for name in names:
            node = node.setdefault(name, {})
        node[last] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    _lay_out(optimizer)
    if getattr(optimizer, "is_paged", False):
        _page(optimizer)


def _is_noted(name: str, value: Any) -> bool:
    """Whether an entry of a parameter group may change while training: numbers do, but for the schedule's."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return name != "lr" and (isinstance(value, Tensor) or number)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory (bitsandbytes' tables) made separate, as safetensors wants them."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        at = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if at in seen else tensor
        seen.add(at)
    return apart


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Lay what was loaded out in memory as its parameter is: fused steps pair numbers by their place alone."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _page(optimizer: Any) -> None:
    """Bring what was loaded into the memory that the optimizer pages, on a GPU: loading has made it plain again."""
    for parameter, state in optimizer.state.items():
        for name in {"state1", "state2"} & state.keys():
            buffer = optimizer.get_state_buffer(parameter, dtype=state[name].dtype)
            if getattr(buffer, "is_paged", False):
                torch.cuda.synchronize()  # the buffer is being filled with zeros
                state[name] = buffer.copy_(state[name])


def _leaves(node: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}/")
        else:
            yield f"{path}{name}", value
