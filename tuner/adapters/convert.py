"""An adapter under the other naming, tensor by tensor: no number is computed anew where both namings can hold it.

Matrices and magnitudes are taken over bit by bit. Alphas become peft's settings in the header (one for each module
where they differ, which diffusers heeds), and back. What the other naming has no room for (kohya's keys of training,
another spelling of names, alphas in half precision) stands in the header under `tuner.was`, and is as it was after
converting back. Changes that diffusers does not load become LoRA, exactly, and stay so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from . import header
from .artifact import Artifact
from .changes import Change, LowRank
from .dora import COMFYUI, Decomposed
from .flat import inner, low_rank
from .ground import Ground
from .naming import Target
from .provenance import facts
from .records import WAS, Entry, named, record, settings
from .source import Source

_PLAIN = {"down", "up", "alpha", "dora_scale", "magnitude"}
_KINDS = {"lora": "LoRA with a core", "loha": "LoHa", "lokr": "LoKr", "full": "whole differences"}
_COMFYUI = "ComfyUI takes the lengths of this DoRA's rows otherwise; with --base they are written in its terms."


@dataclass(frozen=True)
class Converted:
    """What a conversion gives.

    Attributes:
        artifact: the file.
        kinds: what became LoRA because diffusers does not load it -> in how many modules.
        notes: a sentence for each thing to know.
    """

    artifact: Artifact
    kinds: Mapping[str, int]
    notes: tuple[str, ...] = ()


def convert(source: Source, ground: Ground, to: str) -> Converted:
    """A file's adapter in the other naming.

    Args:
        source: the file.
        ground: the base, for its names; its weights only where a DoRA is in ComfyUI's terms, or is to be.
        to: `kohya` or `diffusers`.

    Raises:
        RequestError: it needs a base that is not known, changes what the base does not have, or holds what is not
            finite.
    """
    before = _before(source, to)
    comfyui = to == "kohya" and (before["header"].get(COMFYUI) == "base" if before else ground.known)
    found, kinds = _entries(source, ground, comfyui)
    found = _alike(found, source, ground) if to == "diffusers" else found
    tensors = named(found, to, before)
    if before:
        same = header.hashed({}, tensors)["modelspec.hash_sha256"] == f"0x{before['hash']}"
        return Converted(Artifact(tensors, before["header"] if same else _rehashed(before["header"], tensors)), kinds)
    said = {**facts([source], ground), "title": source.path.stem, **header.plain(source.metadata)}
    own, decomposed = header.modelspec(said, "lora"), any(entry.role == "magnitude" for entry in found)
    own = {name: value for name, value in own.items() if name not in (WAS, COMFYUI)}
    if to == "kohya":
        own |= _kohya(said, found) | ({COMFYUI: "base"} if decomposed and comfyui else {})
    else:
        own = {name: value for name, value in own.items() if not name.startswith("ss_")}
        own["lora_adapter_metadata"] = json.dumps(settings(found), sort_keys=True)
    notes = (_COMFYUI,) if to == "kohya" and decomposed and not comfyui else ()
    if not kinds and not source.of_peft:
        own[WAS] = json.dumps({**record(source, ground, found), "naming": source.naming}, sort_keys=True)
    return Converted(Artifact(tensors, header.hashed(own, tensors)), kinds, notes)


def _before(source: Source, to: str) -> dict[str, Any]:
    """The record of the file that this one was converted from, if its tensors are still those of the conversion."""
    try:
        found = json.loads(source.metadata.get(WAS, "{}"))
    except ValueError:
        return {}
    whole = isinstance(found, dict) and {"header", "hash", "odd", "alpha", "naming"} <= found.keys()
    whole = whole and found["naming"] == to
    return found if whole and source.metadata.get("modelspec.hash_sha256") == f"0x{source.digest()}" else {}


def _rehashed(said: Mapping[str, str], tensors: Mapping[str, Any]) -> dict[str, str]:
    """A header whose hashes, where it has any, are those of the tensors."""
    return {**said, **{name: value for name, value in header.hashed(said, tensors).items() if name in said}}


def _entries(source: Source, ground: Ground, comfyui: bool) -> tuple[list[Entry], dict[str, int]]:
    """A file's tensors, free of any naming; and how many modules of which kind had to change for it.

    Args:
        comfyui: whether a DoRA's magnitudes are wanted in ComfyUI's terms (see `dora`).
    """
    found: list[Entry] = []
    kinds: Counter[str] = Counter()
    for module in source.modules:
        target = ground.target(source, module)
        shape = source.shape(module, target.shape[2:])
        target = target if target.shape == shape else Target(target.part, target.path, shape, target.original)
        columns = source.on_columns(module, shape)
        if source.roles(module) <= _PLAIN and not columns:
            found += _taken(source, ground, module, target, comfyui)
            continue
        change = source.change(module, shape, partial(ground.weight, source, module))
        kinds["DoRA of columns" if columns else _KINDS[inner(change).kind]] += 1
        found += _made(low_rank(change, shape), target)
    return found, dict(kinds)


def _taken(source: Source, ground: Ground, module: str, target: Target, comfyui: bool) -> Iterator[Entry]:
    """A module's own tensors."""
    group, outline = source.group(module), source.outline(module)
    assert outline is not None
    yield Entry(target, "down", group["down"])
    yield Entry(target, "up", group["up"])
    alpha = torch.tensor(outline.numerator(rslora=False), dtype=torch.float32)
    yield Entry(target, "alpha", group["alpha"].float().reshape(()) if "alpha" in group else alpha)
    scale = group.get("magnitude", group.get("dora_scale"))
    if scale is None:
        return
    if comfyui != (source.metadata.get(COMFYUI) == "base"):
        change = source.change(module, target.shape, partial(ground.weight, source, module))
        assert isinstance(change, Decomposed)
        scale = change.tensors()["dora_scale"] if comfyui else change.magnitude
    yield Entry(target, "magnitude", scale)


def _made(change: Change, target: Target) -> Iterator[Entry]:
    plain = inner(change)
    assert isinstance(plain, LowRank)
    yield Entry(target, "down", plain.down)
    yield Entry(target, "up", plain.up)
    yield Entry(target, "alpha", torch.tensor(plain.numerator(rslora=False), dtype=torch.float32))
    if isinstance(change, Decomposed):
        yield Entry(target, "magnitude", change.magnitude)


def _alike(found: list[Entry], source: Source, ground: Ground) -> list[Entry]:
    """peft wants magnitudes in all of a network's modules or in none: the others get those that their rows have."""
    own = [entry.target for entry in found if entry.role == "magnitude"]
    networks, have = {target.part for target in own}, {target.name for target in own}
    for module in source.modules if own else ():
        target = ground.target(source, module)
        if target.part in networks and target.name not in have:
            weight = ground.weight(source, module)
            change = source.change(module, target.shape, partial(ground.weight, source, module))
            found.append(Entry(target, "magnitude", Decomposed.of(weight, change).magnitude))
    return found


def _kohya(said: Mapping[str, str], found: Sequence[Entry]) -> dict[str, str]:
    """kohya's keys of the header."""
    alphas = Counter(entry.tensor.item() for entry in found if entry.role == "alpha")
    ranks = Counter(entry.tensor.shape[0] for entry in found if entry.role == "down")
    rank, alpha = ranks.most_common(1)[0][0], alphas.most_common(1)[0][0]
    convolved = any(entry.target.shape[2:] not in ((), (1, 1)) for entry in found)
    arguments = {"conv_dim": str(rank), "conv_alpha": str(alpha)} if convolved else {}
    variant = "dora" if any(entry.role == "magnitude" for entry in found) else "lora"
    return header.kohya(said, rank, alpha, arguments, variant)


def compare(one: Source, other: Artifact) -> tuple[int, int, float]:
    """Tensors that a file and an artifact have alike, of how many, and the greatest relative difference of the rest."""
    keys = {key: (module, role) for module, roles in one.modules.items() for role, key in roles.items()}
    alike, worst = 0, 0.0
    for key, (module, role) in keys.items():
        mine, its = one.group(module)[role], other.tensors.get(key)
        if its is not None and its.dtype == mine.dtype and its.shape == mine.shape and torch.equal(its, mine):
            alike += 1
        elif its is None or its.shape != mine.shape:
            worst = 1.0
        else:
            apart = (its.double() - mine.double()).norm() / mine.double().norm().clamp(min=1e-30)
            worst = max(worst, float(apart))
    return alike, max(len(keys), len(other.tensors)), worst
