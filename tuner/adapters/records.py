"""Tensors free of any naming; and the record of how a file had them, which a conversion leaves in the header."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .flat import lengths, magnitude_name
from .ground import Ground
from .naming import Target
from .source import Source

WAS = "tuner.was"
_KOHYA = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha", "magnitude": "dora_scale"}
_DIFFUSERS = {"down": "lora_A.weight", "up": "lora_B.weight"}
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


@dataclass(frozen=True)
class Entry:
    """A tensor: the layer that it is for, and its role there: `down`, `up`, `alpha` or `magnitude`."""

    target: Target
    role: str
    tensor: Tensor


def named(found: Sequence[Entry], naming: str, before: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """The tensors under a naming's own names and in its shapes, or as the record says that a file had them."""
    odd, alpha = (before or {}).get("odd", {}), (before or {}).get("alpha", ["F32", []])
    tensors = {}
    for entry in found:
        if entry.role == "alpha" and naming == "diffusers":
            continue  # in the header
        key, tensor = _key(entry.target, entry.role, naming), _usual(entry, naming)
        form = odd.get(key, alpha and [key, *alpha] if entry.role == "alpha" else [key, None, list(tensor.shape)])
        if form:
            name, dtype, shape = form
            tensors[name] = tensor.to(_DTYPES.get(dtype, tensor.dtype)).reshape(shape)
    return tensors


def _key(target: Target, role: str, naming: str) -> str:
    if naming == "kohya":
        return f"{target.kohya}.{_KOHYA[role]}"
    return f"{target.diffusers}.{_DIFFUSERS.get(role) or magnitude_name(target)}"


def _usual(entry: Entry, naming: str) -> Tensor:
    """A tensor in the shape that a naming usually has it in."""
    if entry.role != "magnitude":
        return entry.tensor
    shape = entry.target.shape
    return entry.tensor.reshape((-1, *(1,) * (len(shape) - 1)) if naming == "kohya" else lengths(shape))


def record(source: Source, ground: Ground, found: Sequence[Entry]) -> dict[str, Any]:
    """What a file has otherwise than its naming usually has it, its header, and the hash of its tensors."""
    there = {(ground.target(source, module).name, _role(role)): key for module, roles in source.modules.items()
             for role, key in roles.items()}  # fmt: skip
    odd: dict[str, Any] = {}
    alphas: dict[str, Any] = {}
    for entry in found:
        usual = _key(entry.target, entry.role, source.naming)
        key = there.get((entry.target.name, entry.role))
        said = source.entry(key) if key else None
        form = [key, said.dtype, list(said.shape)] if said else None
        if entry.role == "alpha":
            alphas[usual] = form
        elif form and (key != usual or form[2] != list(_usual(entry, source.naming).shape)):
            odd[usual] = [key, None, form[2]]
    forms = Counter(json.dumps(form and form[1:]) for form in alphas.values())
    common = json.loads(forms.most_common(1)[0][0]) if forms else None
    if source.naming == "kohya":
        odd |= {usual: form for usual, form in alphas.items() if form != (common and [usual, *common])}
    return {"header": dict(source.metadata), "hash": source.digest(), "odd": odd, "alpha": common}


def _role(role: str) -> str:
    return "magnitude" if role == "dora_scale" else role


def settings(found: Sequence[Entry]) -> dict[str, Any]:
    """peft's settings, network by network, as diffusers writes them into a header: an alpha for each module."""
    told: dict[str, Any] = {}
    for part in dict.fromkeys(entry.target.part for entry in found):
        own = [entry for entry in found if entry.target.part == part]
        ranks = {entry.target.path: entry.tensor.shape[0] for entry in own if entry.role == "down"}
        alphas = {path: float(rank) for path, rank in ranks.items()}  # with no alpha the scale is 1
        alphas |= {entry.target.path: entry.tensor.item() for entry in own if entry.role == "alpha"}
        rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
        told |= {f"{part.attribute}.{key}": value for key, value in {
            "r": rank, "lora_alpha": alpha, "use_rslora": False, "target_modules": list(ranks),
            "use_dora": any(entry.role == "magnitude" for entry in own),
            "rank_pattern": {path: other for path, other in ranks.items() if other != rank},
            "alpha_pattern": {path: other for path, other in alphas.items() if other != alpha},
        }.items()}  # fmt: skip
    return told
