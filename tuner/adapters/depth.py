"""How strongly an adapter changes each part of a model, and which of its tensors are broken: its tensors are read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .artifact import Artifact
from .describe import by_module, network_of
from .fitting import missing
from .reading import change_of
from .roles import grouped, settings_in

_BLOCK = re.compile(r"(down_blocks|up_blocks|input_blocks|output_blocks)[._](\d+)|(mid_block|middle_block)")


@dataclass(frozen=True)
class Depth:
    """What an adapter's tensors hold.

    Attributes:
        norms: by part of the model, in the model's order: the norm of what its weights change by, and how many do.
        zero: modules that change nothing.
        broken: tensors with values that are not finite.
    """

    norms: Mapping[str, tuple[float, int]]
    zero: tuple[str, ...]
    broken: tuple[str, ...]


def depth(path: Path) -> Depth:
    """Read a file's tensors.

    Raises:
        RequestError: it is not a whole safetensors file.
    """
    artifact = Artifact.load(path, finite=False)
    broken = tuple(name for name, tensor in artifact.tensors.items() if not _finite(tensor))
    modules = by_module(artifact.tensors)
    sizes = _changes(artifact) if modules else {n: t.float().norm().item() for n, t in artifact.tensors.items()}
    blocks: dict[str, list[float]] = {}
    for name, size in sizes.items():
        if math.isfinite(size):
            blocks.setdefault(block_of(name) if modules else _part(name), []).append(size)
    norms = {block: (math.hypot(*found), len(found)) for block, found in sorted(blocks.items(), key=_order)}
    return Depth(norms, tuple(name for name, size in sizes.items() if size == 0), broken)


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.float().isfinite().all())


def _changes(artifact: Artifact) -> dict[str, float]:
    """The norm of what each module's weight changes by; where its tensors do not fit together it is left out."""
    naming = "diffusers" if any("." in module for module in by_module(artifact.tensors)) else "kohya"
    groups, _ = grouped(artifact.tensors, naming)
    configs, _ = settings_in(artifact.metadata) if naming == "diffusers" else ({}, [])
    found = {}
    for module, group in groups.items():
        if missing(group):
            continue
        prefix, _, path = module.partition(".")
        try:
            found[module] = change_of(group, configs.get(prefix, {}), path).update().norm().item()
        except RuntimeError:  # shapes that do not meet: what they were for is not known here
            continue
    return found


def block_of(module: str) -> str:
    """`lora_unet_down_blocks_1_attentions_0_proj_in` -> `down_blocks 1`; what is in no block goes by its network."""
    match = _BLOCK.search(module)
    if match:
        return match[3] or f"{match[1]} {match[2]}"
    network = network_of(module)
    return f"{network}, ends" if network == "U-Net" else network


def _part(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _order(item: tuple[str, object]) -> tuple[int, str, int]:
    """Down, middle, up, the rest."""
    name, _, number = item[0].partition(" ")
    kinds = ("down_blocks", "input_blocks", "mid_block", "middle_block", "up_blocks", "output_blocks")
    return kinds.index(name) if name in kinds else len(kinds), name, int(number) if number.isdigit() else 0
