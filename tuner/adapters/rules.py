"""What ComfyUI and A1111 take of an adapter file: which of its modules get exactly what it says, and why others do not.

The names that they match are in `loaders`; here is what they do with a module that is not whole, does not fit, or is a
DoRA. Each function gives the number of modules that land, and a clause for each thing that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .changes import LowRank
from .dora import COMFYUI, Decomposed
from .fitting import missing, on_columns
from .loaders import a1111_map, comfyui_map, joined_attentions
from .naming import targets
from .reading import Reading

if TYPE_CHECKING:
    from .naming import Base

_CLOSE = 1e-3  # DoRA's rows in ComfyUI, relative: where they differ by less nobody sees it


def comfyui(reading: Reading, base: Base, metadata: Mapping[str, str]) -> tuple[int, list[str]]:
    """ComfyUI takes what it matches; it stops at an up matrix alone, and what does not fit is only logged."""
    names = comfyui_map(base)
    for module, group in reading.tensors.items():
        first, lacks = next((role for role in ("up", "hada_w1_a") if role in group), None), missing(group)
        if module in names and first and lacks:
            return 0, [f"ComfyUI stops at `{module}`, which has no {lacks if lacks != 'down' else 'down matrix'}"]
    there, problems = _matched(reading, names, "ComfyUI")
    other = [] if metadata.get(COMFYUI) == "base" else _other_rows(reading)
    if other:
        farthest = max(other)
        problems.append(
            f"ComfyUI divides DoRA's rows by the base's lengths, so that {len(other)} modules are up to "
            f"{farthest:.1%} stronger or weaker there"
        )
    return there - len(other), problems


def _other_rows(reading: Reading) -> list[float]:
    """How far ComfyUI is off in the modules of a DoRA whose magnitudes are those of the changed rows."""
    changes = [change for change in reading.changes.values() if isinstance(change, Decomposed)]
    apart = [(1 / change.ratio - 1).abs().max().item() for change in changes]
    return [distance for distance in apart if distance > _CLOSE]


def a1111(reading: Reading, base: Base) -> tuple[int, list[str]]:
    """A1111 takes what it matches, and nothing of a file in which a module that it matches is not whole.

    Of an OpenCLIP encoder's attention it changes q, k, v and out together or not at all.
    """
    names = a1111_map(base)
    for module, group in reading.tensors.items():
        if module in names and missing(group):
            return 0, [f"A1111 drops the whole file because `{module}` has not both matrices"]
    there, problems = _matched(reading, names, "A1111")
    rows = [
        module for module, group in reading.tensors.items()
        if "dora_scale" in group and (name := names.get(module)) in reading.changes
        and not on_columns(tuple(group["dora_scale"].shape), targets(base)[str(name)].shape)
    ]  # fmt: skip
    if rows:
        problems.append(
            "A1111 divides DoRA's rows by the lengths of columns, so that its pictures differ from those of training"
        )
        return there - len(rows), problems
    joined = joined_attentions(base)
    groups: dict[str, list[str]] = {}
    for name in reading.changes:
        if name in joined:
            groups.setdefault(joined[name], []).append(name)
    lost = {attention: group for attention, group in groups.items() if len(group) < 4}
    problems += [
        f"A1111 passes over `{attention}`, of which q, k, v and out are not all in the file" for attention in lost
    ]
    return there - sum(map(len, lost.values())), problems


def _matched(reading: Reading, names: Mapping[str, str], program: str) -> tuple[int, list[str]]:
    there = [module for module in reading.modules if names.get(module) in reading.changes]
    unknown = [module for module, name in reading.modules.items() if name and module not in names]
    return len(there), [f"{program} has no match for `{module}`" for module in unknown]


def comfyui_dotted(reading: Reading, base: Base) -> tuple[int, list[str]]:
    """diffusers' names in ComfyUI: all but the attentions' matrices match, and with no alpha their scale is 1."""
    known, names = targets(base), set(comfyui_map(base).values())
    there = 0
    for name, change in reading.changes.items():
        plain = isinstance(change, LowRank) and math.isclose(change.scale, 1.0)
        matches = name in names and ".to_" not in known[name].path
        there += matches and reading.modules.get(known[name].diffusers) == name and plain
    short = ["ComfyUI takes diffusers' names in part; give it a file in kohya's naming"]
    return there, short if there < len(reading.modules) else []


def a1111_dotted() -> tuple[int, list[str]]:
    return 0, [
        "A1111 takes nothing of diffusers' names, which it splits at the first dot; give it a file in kohya's naming"
    ]
