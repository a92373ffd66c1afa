"""The file that a merge leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .artifact import Artifact
from .ground import Ground
from .lora import Lora
from .merge import Merged, Way
from .provenance import of_merge, origin
from .source import Source
from .weighted import Weighted


def told(adapters: Sequence[Weighted], way: Way) -> dict[str, Any]:
    """How a merge was made, for the header: the method, its settings that count, and the weights."""
    weights: list[dict[str, Any]] = []
    for adapter in adapters:
        blocks = {"blocks": dict(adapter.blocks)} if adapter.blocks else {}
        weights.append({"file": adapter.source.path.name, "weight": adapter.weight, **blocks})
    settings = {
        "rank": way.keep.rank, "energy": way.keep.energy,
        "density": way.density if way.method in ("ties", "dare") else 0,
        "seed": str(way.seed) if way.method in ("dare", "fusion") else "",
    }  # fmt: skip
    return {"method": way.method, "weights": weights, **{key: value for key, value in settings.items() if value}}


def of(merged: Merged, adapters: Sequence[Weighted], ground: Ground, way: Way, out: Path) -> Artifact:
    """A merge as a file in its naming."""
    said = of_merge([adapter.source for adapter in adapters], ground, told(adapters, way), out)
    lora = Lora(merged.changes, merged.targets, said)
    return lora.to_kohya() if merged.naming == "kohya" else lora.to_diffusers()


def alone(source: Source, made: Mapping[str, Any]) -> Artifact:
    """One adapter at weight 1: the very tensors and the header that it has, and how it was made."""
    artifact = Artifact.load(source.path)
    said = origin([source], made)
    kept = {f"tuner.{key}": value for key, value in said.items() if key != "merged_from"}
    return Artifact(artifact.tensors, {**artifact.metadata, **kept, "modelspec.merged_from": said["merged_from"]})


def resized(merged: Merged, source: Source, ground: Ground, made: Mapping[str, Any], out: Path) -> Artifact:
    """A resized adapter as a file in its naming, with what its header said."""
    lora = Lora(merged.changes, merged.targets, of_merge([source], ground, made, out))
    return lora.to_kohya() if merged.naming == "kohya" else lora.to_diffusers()
