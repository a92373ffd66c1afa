"""Adapters that change weights (LoRA, DoRA, LoHa, LoKr), in the two namings that programs load.

kohya's naming holds each change as it is, with alpha beside it. diffusers loads low-rank changes alone, with one alpha
for each network: its file has every change in that form, exactly, and DoRA's magnitudes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import RequestError
from ..models.quantize import weight_in
from . import header
from .artifact import Artifact
from .changes import Change, LowRank
from .collect import collected
from .dora import COMFYUI, Decomposed
from .flat import common_alpha, configs, inner, low_rank, state_dict, under
from .naming import Target, layer_of, targets, weight_of
from .reading import Reading, read

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion
    from .naming import Base

DIFFUSERS_FILE = Path("diffusers") / "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Lora:
    """An adapter, free of any naming.

    Attributes:
        changes: what it does to each module, by canonical name.
        targets: those modules.
        metadata: what the files say about it, by plain names (see `header`).
    """

    changes: Mapping[str, Change]
    targets: Mapping[str, Target]
    metadata: Mapping[str, str] = field(default_factory=dict)

    # -- making one ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_model(
        cls, base: LatentDiffusion, metadata: Mapping[str, str] | None = None, adapter: str = "default"
    ) -> Lora:
        """Collect the layers that peft has put into a base. What the base says of itself joins the metadata.

        Raises:
            ValueError: there are none, or files do not have their like.
        """
        known = targets(base)
        found = {name: collected(layer_of(base, target), adapter) for name, target in known.items()}
        changes = {name: change for name, change in found.items() if change is not None}
        if not changes:
            raise ValueError(f"there are no adapter layers named {adapter} in this base")
        changed = {name: known[name] for name in changes}
        return cls(changes, changed, {**header.facts(base), **(metadata or {})})

    @classmethod
    def from_artifact(cls, artifact: Artifact, base: LatentDiffusion, source: object = "this file") -> Lora:
        """Read an adapter file of either naming.

        Args:
            artifact: the file's tensors and header.
            base: what it is for.
            source: what messages call the file.

        Raises:
            RequestError: it is not an adapter, is not whole, or does not fit this base.
        """
        reading = read(artifact, base, source)
        if reading.problems:
            raise RequestError(f"{source} cannot be used with {base.identity}: {reading.problems[0]}.")
        said, of_base = header.plain(artifact.metadata), header.facts(base)
        family = {key: of_base[key] for key in ("architecture", "kohya_version")}
        return cls.from_reading(reading, base, {**of_base, **said, **family})

    @classmethod
    def from_reading(cls, reading: Reading, base: Base, metadata: Mapping[str, str] | None = None) -> Lora:
        """What a file says, put together. peft wants magnitudes in all of a network's modules or in none."""
        known = targets(base)
        changes = dict(reading.changes)
        decomposed = {known[name].part for name, change in changes.items() if isinstance(change, Decomposed)}
        for name, change in changes.items():
            if known[name].part in decomposed and not isinstance(change, Decomposed):
                changes[name] = Decomposed.of(weight_in(weight_of(base, known[name])), change)
        return cls(changes, {name: known[name] for name in changes}, metadata or {})

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def variant(self) -> str:
        """`lora`, `dora`, `loha`, `lokr`, `full`, or whatever most modules have."""
        return Counter(change.kind for change in self.changes.values()).most_common(1)[0][0]

    @property
    def rank(self) -> int:
        """The rank of most modules; 0 where they have none."""
        return Counter(change.rank for change in self.changes.values()).most_common(1)[0][0]

    @property
    def rslora(self) -> bool:
        """Whether all scales are alpha / sqrt(rank)."""
        told = [change.rslora for change in map(inner, self.changes.values()) if isinstance(change, LowRank)]
        return bool(told) and all(told)

    @property
    def alpha(self) -> float:
        """The numerator of most modules' scales, by the rule of `rslora`."""
        return common_alpha(self.changes.values(), self.rslora)

    def to(self, dtype: torch.dtype) -> Lora:
        """The same in another precision."""
        return replace(self, changes={name: change.to(dtype) for name, change in self.changes.items()})

    def low_rank(self) -> Lora:
        """The same with every change as a low-rank one, under one alpha: diffusers has one for each network."""
        flat = self._flat()
        rslora, alpha = flat.rslora, flat.alpha
        return replace(flat, changes={name: under(change, alpha, rslora) for name, change in flat.changes.items()})

    def unscaled(self) -> Lora:
        """The same with every change as a low-rank one of scale 1, which programs that are told no alpha take."""
        flat = self._flat().changes
        return replace(self, changes={name: under(change, float(change.rank), False) for name, change in flat.items()})

    def _flat(self) -> Lora:
        flat = {name: low_rank(change, self.targets[name].shape) for name, change in self.changes.items()}
        return replace(self, changes=flat)

    # -- files ---------------------------------------------------------------------------------------------------------

    def to_kohya(self) -> Artifact:
        """kohya's naming, for ComfyUI, A1111 and their kin. Low-rank changes are all under one alpha: diffusers takes
        the scale of attentions wrongly otherwise.
        """
        alpha = common_alpha(self.changes.values(), rslora=False)
        tensors: dict[str, Tensor] = {}
        for name, target in self.targets.items():
            for role, tensor in under(self.changes[name], alpha, rslora=False).tensors().items():
                tensors[f"{target.kohya}.{role}"] = tensor
        rank, variant = self.rank, self.variant
        arguments: dict[str, str] = {}
        if any(target.shape[2:] not in ((), (1, 1)) for target in self.targets.values()):
            arguments = {"conv_dim": str(rank), "conv_alpha": str(alpha)}
        said = header.modelspec(self.metadata, "lora")
        said |= header.kohya(self.metadata, rank, alpha, arguments, variant)
        if variant == "dora":
            said[COMFYUI] = "base"
        return Artifact(tensors, header.hashed(said, tensors))

    def to_diffusers(self) -> Artifact:
        """diffusers' (peft's) naming; alpha, ranks, rsLoRA and DoRA are in the header."""
        plain = self.low_rank()
        tensors = state_dict(plain.changes, plain.targets)
        said = {k: v for k, v in header.modelspec(self.metadata, "lora").items() if not k.startswith("ss_")}
        settings = configs(plain.changes, plain.targets, plain.alpha, plain.rslora)
        said["lora_adapter_metadata"] = json.dumps(settings, sort_keys=True)
        return Artifact(tensors, header.hashed(said, tensors))

    def write(self, folder: Path, name: str, dtype: torch.dtype) -> list[Path]:
        """Write NAME.safetensors (kohya) and diffusers/pytorch_lora_weights.safetensors; their paths, in this order."""
        named = replace(self, metadata={"title": name, **self.metadata, "output_name": name})
        paths = [folder / f"{name}.safetensors", folder / DIFFUSERS_FILE]
        made = named.to(dtype).to_kohya(), named.low_rank().to(dtype).to_diffusers()
        for path, artifact in zip(paths, made, strict=True):
            artifact.save(path)
        return paths

    def prove(self, paths: list[Path], base: LatentDiffusion) -> list[str]:
        """Load both files as other programs do, on a base that has no adapter; a sentence for each proof.

        Raises:
            RunError: a file would load in part, or with no effect.
        """
        from .proof import prove

        return prove(paths, base, self.metadata.get("trigger_phrase", "a picture"))

    def usage(self, paths: list[Path], prompt: str) -> str:
        """How to use the files in diffusers, ComfyUI and A1111, as Markdown."""
        from .usage import usage

        return usage(self, paths, prompt)

    def flags(self, paths: list[Path], base: str) -> str:
        """What `tuner generate` is told to draw with the files."""
        from .usage import flags

        return flags(paths[0], base, self.metadata)

    @property
    def pipeline(self) -> str:
        """diffusers' pipeline for the family that it was made for."""
        from .usage import pipeline_of

        return pipeline_of(self.metadata)
