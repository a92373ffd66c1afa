"""Reading adapter files of either naming: what each of a base's modules gets, and what is wrong with the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import RequestError
from ..models.quantize import weight_in
from .artifact import Artifact
from .changes import Change, Full, LowRank
from .dora import COMFYUI, Decomposed, by_columns
from .fitting import fault, on_columns
from .lycoris import Hadamard, Kronecker
from .naming import diffusers_map, parts, spellings, targets, weight_of
from .roles import HADA, LOKR, PEFT, grouped, naming_in, settings_in, without_alpha

if TYPE_CHECKING:
    from .naming import Base


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
    if all(name.startswith(PEFT) for name in artifact.tensors):
        raise RequestError(
            f"{source} has peft's own names, which programs that draw do not take; make a file that they take: "
            f"tuner convert {source} --to kohya --out FILE"
        )
    return naming_in(artifact.tensors, source)


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
    problems += without_alpha(tensors) if naming == "kohya" else []
    modules = {module: names.get(module) for module in tensors}
    changes: dict[str, Change] = {}
    for module, group in tensors.items():
        name = modules[module]
        if name is None:
            problems.append(f"`{module}` is not a module of this base")
        elif name in changes:
            problems.append(f"`{module}` is in the file twice, under two names")
        elif wrong := fault(module, _shapes(group), known[name].shape):
            problems.append(wrong)
        else:
            target, layer = known[name], weight_of(base, known[name])
            config = configs.get(target.part.attribute, {})
            own = partial(weight_in, layer)
            changes[name] = change_on(group, config, target.path, target.shape, artifact.metadata, own)
    return Reading(naming, modules, tensors, changes, tuple(problems))


def _shapes(group: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {role: tuple(tensor.shape) for role, tensor in group.items()}


def change_on(
    group: Mapping[str, Tensor], config: Mapping[str, Any], path: str, shape: tuple[int, ...],
    metadata: Mapping[str, str], weight_in_base: Callable[[], Tensor],
) -> Change:  # fmt: skip
    """A whole module's change, of whatever kind.

    Args:
        group, config, path: as for `change_of`.
        shape: the weight's.
        metadata: the file's.
        weight_in_base: the weight itself; asked for by those of DoRA alone.
    """
    inner = change_of(group, config, path)
    if isinstance(inner, Full):
        inner = Full(inner.diff.reshape(shape))
    if not group.keys() & {"dora_scale", "magnitude"}:
        return inner
    weight = weight_in_base().cpu()
    if "magnitude" in group:
        return Decomposed.on(weight, inner, group["magnitude"])
    scale = group["dora_scale"]
    if on_columns(tuple(scale.shape), shape):
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
        return Hadamard({name: group[name] for name in HADA if name in group}, alpha)
    if group.keys() & {"lokr_w1", "lokr_w1_a"}:
        return Kronecker({name: group[name] for name in LOKR if name in group}, alpha)
    down, up, mid = group["down"], group["up"], group.get("mid")
    if alpha is not None:
        return LowRank(down, up, alpha, mid=mid)
    return LowRank(down, up, _told(config, path, down.shape[0]), bool(config.get("use_rslora", False)), mid)


def _told(config: Mapping[str, Any], path: str, rank: int) -> float:
    """The alpha that peft's settings give a module; its rank where they say none."""
    patterns = config.get("alpha_pattern") or {}
    if patterns and path not in patterns:
        from peft.utils.other import get_pattern_key

        patterns = {path: patterns.get(get_pattern_key(patterns.keys(), path))}
    told = patterns.get(path)
    return float(config.get("lora_alpha", rank) if told is None else told)
