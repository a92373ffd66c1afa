"""Reading adapter files of either naming: what each of a base's modules gets, and what is wrong with the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import RequestError
from .artifact import Artifact
from .changes import Change, Full, LowRank
from .collect import weight_in
from .dora import COMFYUI, Decomposed, by_columns
from .fitting import fault, on_columns
from .lycoris import Hadamard, Kronecker
from .naming import Target, diffusers_map, parts, spellings, targets, weight_of

if TYPE_CHECKING:
    from .naming import Base

# How a tensor's name ends -> what it is to us. Of endings that end alike the longer one stands first.
_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
_LOKR = ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_w1", "lokr_w2", "lokr_t2")
_KOHYA = {
    "lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid", "alpha": "alpha",
    "dora_scale": "dora_scale", "diff": "diff", **{name: name for name in (*_HADA, *_LOKR)},
}  # fmt: skip
_DIFFUSERS = {
    "lora_A.weight": "down", "lora_B.weight": "up", "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """What an adapter file says.

    Attributes:
        naming: `kohya` or `diffusers`.
        modules: the modules that the file names, as it spells them -> canonical names, None where this base has none.
        tensors: by the file's spelling of the module, then by role: down, up, alpha, `hada_w1_a`, ...
        changes: by canonical name, the modules that are whole and fit.
        problems: a clause for each thing that is wrong.
    """

    naming: str
    modules: Mapping[str, str | None]
    tensors: Mapping[str, Mapping[str, Tensor]]
    changes: Mapping[str, Change]
    problems: tuple[str, ...]


def naming_of(artifact: Artifact, base: Base, source: object = "this file") -> str:
    """`kohya` or `diffusers`: how an adapter file names its modules.

    Raises:
        RequestError: it holds no change of a module.
    """
    if any(name.startswith(tuple(f"{part.kohya}_" for part in parts(base))) for name in artifact.tensors):
        return "kohya"
    if any(name.startswith("lora_") and name.endswith(tuple(_KOHYA)) for name in artifact.tensors):
        return "kohya"  # of another family: its modules will be found wanting one by one
    if any(name.endswith(tuple(_DIFFUSERS)) for name in artifact.tensors):
        return "diffusers"
    raise RequestError(f"{source} holds no LoRA under kohya's or diffusers' names; name a LoRA's .safetensors file.")


def read(artifact: Artifact, base: Base, source: object = "this file") -> Reading:
    """Sort an adapter's tensors by module and compare them with a base, or a pipeline; nothing is left out silently.

    Args:
        artifact: the file's tensors and header.
        base: what it is for, with its weights: those of DoRA mean something together with them alone.
        source: what messages call the file.

    Raises:
        RequestError: it holds no change of a module.
    """
    naming = naming_of(artifact, base, source)
    names = spellings(base) if naming == "kohya" else diffusers_map(base)
    known = targets(base)
    tensors, problems = grouped(artifact.tensors, naming)
    configs, trouble = settings_in(artifact.metadata) if naming == "diffusers" else ({}, [])
    problems += trouble
    problems += _alphas(tensors) if naming == "kohya" else []
    modules = {module: names.get(module) for module in tensors}
    changes: dict[str, Change] = {}
    for module, group in tensors.items():
        name = modules[module]
        if name is None:
            problems.append(f"`{module}` is not a module of this base")
        elif name in changes:
            problems.append(f"`{module}` is in the file twice, under two names")
        elif wrong := fault(module, group, known[name].shape):
            problems.append(wrong)
        else:
            changes[name] = _change(group, known[name], base, configs, artifact.metadata)
    return Reading(naming, modules, tensors, changes, tuple(problems))


def grouped(tensors: Mapping[str, Tensor], naming: str) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Module as the file spells it -> role -> tensor; and a clause for each tensor that has no role."""
    roles = _KOHYA if naming == "kohya" else _DIFFUSERS
    found: dict[str, dict[str, Tensor]] = {}
    problems = []
    for key, tensor in tensors.items():
        role = next((role for role in roles if key.endswith(f".{role}")), None)
        if role:
            found.setdefault(key.removesuffix(f".{role}"), {})[roles[role]] = tensor
        elif key.endswith((".diff_b", ".bias")):
            problems.append(f"`{key}` changes a bias, which is not read here")
        else:
            problems.append(f"`{key}` is not a LoRA tensor")
    return found, problems


def _alphas(tensors: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
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


def _change(
    group: Mapping[str, Tensor], target: Target, base: Base, configs: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, str],
) -> Change:  # fmt: skip
    """The module's change, of whatever kind."""
    inner = change_of(group, configs.get(target.part.attribute, {}), target.path)
    if isinstance(inner, Full):
        inner = Full(inner.diff.reshape(target.shape))
    if not group.keys() & {"dora_scale", "magnitude"}:
        return inner
    weight = weight_in(weight_of(base, target)).cpu()
    if "magnitude" in group:
        return Decomposed.on(weight, inner, group["magnitude"])
    scale = group["dora_scale"]
    if on_columns(scale, target.shape):
        return Full(by_columns(weight, inner, scale))
    return Decomposed.on(weight, inner, scale, metadata.get(COMFYUI) == "base")


def change_of(group: Mapping[str, Tensor], config: Mapping[str, Any], path: str) -> Change:
    """A whole module's change without its magnitudes. With no alpha anywhere the scale is 1: so all programs take it.

    Args:
        group: its tensors by role.
        config: peft's settings of its network, of a file in diffusers' naming; else empty.
        path: the module's, for those settings.
    """
    alpha = group["alpha"].item() if "alpha" in group else None
    if "diff" in group:
        return Full(group["diff"])
    if "hada_w1_a" in group:
        return Hadamard({name: group[name] for name in _HADA if name in group}, alpha)
    if group.keys() & {"lokr_w1", "lokr_w1_a"}:
        return Kronecker({name: group[name] for name in _LOKR if name in group}, alpha)
    down, up, mid = group["down"], group["up"], group.get("mid")
    if alpha is not None:
        return LowRank(down, up, alpha, mid=mid)
    return LowRank(down, up, _told(config, path, down.shape[0]), bool(config.get("use_rslora", False)), mid)


def _told(config: Mapping[str, Any], path: str, rank: int) -> float:
    """The alpha that peft's settings give a module; its rank where they say none."""
    patterns = config.get("alpha_pattern") or {}
    if patterns:
        from peft.utils.other import get_pattern_key

        patterns = {path: patterns.get(get_pattern_key(patterns.keys(), path))}
    return float(patterns.get(path) or config.get("lora_alpha", rank))
