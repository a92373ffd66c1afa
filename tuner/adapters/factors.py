"""Reading LoRA files of either naming: what each of a base's modules gets, and what is wrong with the file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import RequestError
from .artifact import Artifact
from .naming import Target, diffusers_map, kohya_map, parts, targets

if TYPE_CHECKING:
    from .naming import Base

_KOHYA = {"lora_down.weight": "down", "lora_up.weight": "up", "alpha": "alpha"}
_DIFFUSERS = {"lora_A.weight": "down", "lora_B.weight": "up"}


@dataclass(frozen=True)
class Factors:
    """One module's change, scale * up @ down.

    Attributes:
        down: (rank, in) or (rank, in, height, width).
        up: (out, rank) or (out, rank, 1, 1).
        alpha: the numerator of the scale.
        rslora: whether the denominator is the rank's square root.
    """

    down: Tensor
    up: Tensor
    alpha: float
    rslora: bool = False

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def empty(self) -> bool:
        """Whether it changes nothing."""
        return self.alpha == 0 or not self.up.any() or not self.down.any()


@dataclass(frozen=True)
class Reading:
    """What a LoRA file says.

    Attributes:
        naming: `kohya` or `diffusers`.
        modules: the modules that the file names, as it spells them -> canonical names, None where this base has none.
        tensors: by the file's spelling of the module, then by role: down, up, alpha.
        factors: by canonical name, the modules that are whole and fit.
        problems: a clause for each thing that is wrong.
    """

    naming: str
    modules: Mapping[str, str | None]
    tensors: Mapping[str, Mapping[str, Tensor]]
    factors: Mapping[str, Factors]
    problems: tuple[str, ...]


def naming_of(artifact: Artifact, base: Base, source: object = "this file") -> str:
    """`kohya` or `diffusers`: how a LoRA file names its modules.

    Raises:
        RequestError: it has no LoRA tensor.
    """
    if any(name.startswith(f"{part.kohya}_") for name in artifact.tensors for part in parts(base)):
        return "kohya"
    if any(name.endswith(tuple(_DIFFUSERS)) for name in artifact.tensors):
        return "diffusers"
    raise RequestError(f"{source} holds no LoRA under kohya's or diffusers' names; name a LoRA's .safetensors file.")


def read(artifact: Artifact, base: Base, source: object = "this file") -> Reading:
    """Sort a LoRA file's tensors by module and compare them with a base (or a pipeline); nothing is left out silently.

    Args:
        source: what messages call the file.

    Raises:
        RequestError: it has no LoRA tensor.
    """
    naming = naming_of(artifact, base, source)
    names, roles = (kohya_map(base), _KOHYA) if naming == "kohya" else (diffusers_map(base), _DIFFUSERS)
    known = targets(base)
    tensors, problems = _by_module(artifact.tensors, roles)
    configs: dict[str, dict[str, Any]] = {}
    try:
        configs = _configs(artifact.metadata) if naming == "diffusers" else {}
    except (ValueError, AttributeError):
        problems.append("`lora_adapter_metadata` in its header is not what diffusers writes")
    modules = {module: names.get(module) for module in tensors}
    factors: dict[str, Factors] = {}
    for module, group in tensors.items():
        name = modules[module]
        if name is None:
            problems.append(f"`{module}` is not a module of this base")
            continue
        fault = _fault(module, group, known[name].shape)
        if fault:
            problems.append(fault)
            continue
        factors[name] = _factors(group, known[name], configs)
        if naming == "kohya" and "alpha" not in group:
            problems.append(f"`{module}` has no alpha, so programs differ on its strength")
    return Reading(naming, modules, tensors, factors, tuple(problems))


def _by_module(
    tensors: Mapping[str, Tensor], roles: Mapping[str, str]
) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Module as the file spells it -> role -> tensor; and a clause for each tensor that has no role."""
    grouped: dict[str, dict[str, Tensor]] = {}
    problems = []
    for key, tensor in tensors.items():
        role = next((role for role in roles if key.endswith(f".{role}")), None)
        if role:
            grouped.setdefault(key.removesuffix(f".{role}"), {})[roles[role]] = tensor
        else:
            problems.append(f"`{key}` is not a LoRA tensor")
    return grouped, problems


def _configs(metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """peft's settings by network, from the header of a file in diffusers' naming; none where it has none."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in json.loads(metadata.get("lora_adapter_metadata", "{}")).items():
        prefix, _, setting = key.partition(".")
        found.setdefault(prefix, {})[setting] = value
    return found


def _fault(module: str, group: Mapping[str, Tensor], shape: tuple[int, ...]) -> str | None:
    """What is wrong with one module's tensors, as a clause."""
    for role, words in (("down", "down (A)"), ("up", "up (B)")):
        if role not in group:
            return f"`{module}` has no {words} matrix"
    down, up = tuple(group["down"].shape), tuple(group["up"].shape)
    ones = (1,) * (len(shape) - 2)
    if down != (down[0], *shape[1:]) or up != (shape[0], down[0], *ones):
        return f"`{module}` has matrices of shapes {down} and {up}, which do not fit this base's {shape}"
    if "alpha" in group and group["alpha"].numel() != 1:
        return f"`{module}` has an alpha that is not one number"
    return None


def _factors(group: Mapping[str, Tensor], target: Target, configs: Mapping[str, Mapping[str, Any]]) -> Factors:
    """The module's change. With no alpha anywhere its scale is 1: so all loaders take it."""
    from peft.utils.other import get_pattern_key

    down, up = group["down"], group["up"]
    if "alpha" in group:
        return Factors(down, up, group["alpha"].item())
    config = configs.get(target.part.prefix, {})
    patterns = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(patterns.keys(), target.path), config.get("lora_alpha", down.shape[0]))
    return Factors(down, up, float(alpha), bool(config.get("use_rslora", False)))
