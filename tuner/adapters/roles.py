"""What the tensors of adapter files are, told by how their names end; nothing here needs a base."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ..errors import RequestError

T = TypeVar("T")

# How a tensor's name ends -> what it is to us. Of endings that end alike the longer one stands first.
HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
LOKR = ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_w1", "lokr_w2", "lokr_t2")
_KOHYA = {
    "lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid", "alpha": "alpha",
    "dora_scale": "dora_scale", "diff": "diff", **{name: name for name in (*HADA, *LOKR)},
}  # fmt: skip
_DIFFUSERS = {
    "lora_A.weight": "down", "lora_B.weight": "up", "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "lora.down.weight": "down", "lora.up.weight": "up",  # what diffusers' own scripts write of attentions
    "lora_linear_layer.down.weight": "down", "lora_linear_layer.up.weight": "up",  # and of text encoders
}  # fmt: skip


PEFT = "base_model.model."
"""What the names in a file of peft's `save_pretrained` begin with."""


def naming_in(names: Iterable[str], source: object) -> str:
    """`kohya` or `diffusers`: how an adapter file names its modules, told by its tensors' names.

    Raises:
        RequestError: it holds no change of a module.
    """
    names = list(names)
    if any(name.startswith("lora_") and name.endswith(tuple(_KOHYA)) for name in names):
        return "kohya"  # maybe of another family: its modules will be found wanting one by one
    if any(name.endswith(tuple(_DIFFUSERS)) for name in names):
        return "diffusers"
    raise RequestError(f"{source} holds no LoRA under kohya's or diffusers' names; name a LoRA's .safetensors file.")


def grouped(tensors: Mapping[str, T], naming: str) -> tuple[dict[str, dict[str, T]], list[str]]:
    """Module as the file spells it -> role -> tensor; and a clause for each tensor that has no role."""
    roles = _KOHYA if naming == "kohya" else _DIFFUSERS
    found: dict[str, dict[str, T]] = {}
    problems = []
    for key, tensor in tensors.items():
        role = next((role for role in roles if key.endswith(f".{role}")), None)
        if role:
            group = found.setdefault(key.removesuffix(f".{role}"), {})
            problems += [f"`{key}` is in the file twice, under two names"] if roles[role] in group else []
            group[roles[role]] = tensor
        elif key.endswith((".diff_b", ".bias")):
            problems.append(f"`{key}` changes a bias, which is not read here")
        else:
            problems.append(f"`{key}` is not a LoRA tensor")
    return found, problems


def without_alpha(tensors: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Modules without alpha in a file that has some. Where none has one, every program takes a scale of 1."""
    scaled = {module: group for module, group in tensors.items() if group.keys() & {"down", "hada_w1_b", "lokr_w2_b"}}
    if not any("alpha" in group for group in scaled.values()):
        return []
    lacking = [module for module, group in scaled.items() if "alpha" not in group]
    return [f"`{module}` has no alpha, so programs differ on its strength" for module in lacking]


def settings_in(metadata: Mapping[str, str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """peft's settings by network, from the header of a file in diffusers' naming; none where it has none."""
    found: dict[str, dict[str, Any]] = {}
    try:
        for key, value in json.loads(metadata.get("lora_adapter_metadata", "{}")).items():
            prefix, _, setting = key.partition(".")
            found.setdefault(prefix, {})[setting] = value
    except (ValueError, AttributeError):
        return {}, ["`lora_adapter_metadata` in its header is not what diffusers writes"]
    return found, []
