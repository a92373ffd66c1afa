"""LoRA: low-rank changes of a base's weights, in the two namings that programs load.

W' = W + scale * B A, with A (`lora_A`, `lora_down`) of shape (rank, in[, height, width]) and B (`lora_B`, `lora_up`)
of shape (out, rank[, 1, 1]); scale = alpha / rank (Hu et al. 2021, arXiv:2106.09685, section 4.1), or
alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732). kohya's files have alpha beside every pair and
know no rsLoRA; diffusers' files have alpha, rank and rsLoRA in their header.
"""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import RequestError
from . import header
from .artifact import Artifact
from .factors import Factors, read
from .naming import Target, targets

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion

DIFFUSERS_FILE = Path("diffusers") / "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Lora:
    """A LoRA, free of any naming.

    Attributes:
        tensors: `unet.<path>.lora_A.weight` and `.lora_B.weight`; the rank may differ from module to module.
        alpha: the one numerator of every module's scale.
        rank: the rank of most modules.
        rslora: whether scales are alpha / sqrt(rank).
        targets: the modules that it changes, by canonical name.
        metadata: what the files say about it, by plain names (see `header`).
    """

    tensors: Mapping[str, Tensor]
    alpha: float
    rank: int
    rslora: bool
    targets: Mapping[str, Target]
    metadata: Mapping[str, str] = field(default_factory=dict)

    # -- making one ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_model(
        cls,
        base: LatentDiffusion,
        alpha: float,
        rank: int,
        rslora: bool = False,
        metadata: Mapping[str, str] | None = None,
        adapter: str = "default",
    ) -> Lora:
        """Collect the LoRA layers that peft has put into a base. What the base says of itself joins the metadata.

        Raises:
            ValueError: there are none, or their scale is not that of `alpha`, `rank` and `rslora`.
        """
        from peft.tuners.lora import LoraLayer

        tensors, changed = {}, {}
        for name, target in targets(base).items():
            layer = getattr(base, target.part.attribute).get_submodule(target.path)
            if not isinstance(layer, LoraLayer) or adapter not in layer.lora_A:
                continue
            down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            expected = Factors(down, up, alpha, rslora).scale
            if adapter in layer.lora_magnitude_vector or not math.isclose(layer.scaling[adapter], expected):
                raise ValueError(f"{name} is not a plain LoRA layer of scale {expected}")
            changed[name] = target
            tensors[f"{name}.lora_A.weight"] = down.detach().to("cpu", copy=True)
            tensors[f"{name}.lora_B.weight"] = up.detach().to("cpu", copy=True)
        if not changed:
            raise ValueError(f"there are no LoRA layers named {adapter} in this base")
        return cls(tensors, float(alpha), rank, rslora, changed, {**header.facts(base), **(metadata or {})})

    @classmethod
    def from_artifact(cls, artifact: Artifact, base: LatentDiffusion, source: object = "this file") -> Lora:
        """Read a LoRA file of either naming. Where alphas differ, the difference moves into the weights.

        Args:
            artifact: the file's tensors and header.
            base: what it is for.
            source: what messages call the file.

        Raises:
            RequestError: it is not a LoRA, is not whole, or does not fit this base.
        """
        reading = read(artifact, base, source)
        if reading.problems:
            raise RequestError(f"{source} cannot be used with {base.identity}: {reading.problems[0]}.")
        known = targets(base)
        rslora = all(f.rslora for f in reading.factors.values())
        alphas = {n: f.alpha if f.rslora == rslora else f.scale * f.rank for n, f in reading.factors.items()}
        alpha = Counter(a for a in alphas.values() if a).most_common(1)[0][0] if any(alphas.values()) else 0.0
        tensors = {}
        for name, factors in reading.factors.items():
            same = alphas[name] == alpha
            tensors[f"{name}.lora_A.weight"] = factors.down
            tensors[f"{name}.lora_B.weight"] = factors.up if same else factors.up.float() * (alphas[name] / alpha)
        rank = Counter(f.rank for f in reading.factors.values()).most_common(1)[0][0]
        said = header.plain(artifact.metadata)
        of_base = header.facts(base)
        family = {key: of_base[key] for key in ("architecture", "kohya_version")}
        changed = {name: known[name] for name in reading.factors}
        return cls(tensors, alpha, rank, rslora, changed, {**of_base, **said, **family})

    def to(self, dtype: torch.dtype) -> Lora:
        """The same with its tensors in another precision."""
        return replace(self, tensors={name: tensor.to(dtype) for name, tensor in self.tensors.items()})

    def factors(self) -> Iterator[tuple[Target, Factors]]:
        """Every module that changes, and how."""
        for name, target in self.targets.items():
            down, up = (self.tensors[f"{name}.lora_{side}.weight"] for side in "AB")
            yield target, Factors(down, up, self.alpha, self.rslora)

    # -- files ---------------------------------------------------------------------------------------------------------

    def to_kohya(self) -> Artifact:
        """kohya's naming, for ComfyUI, A1111 and their kin. alpha / rank is the true scale of every module.

        alpha stays in fp32 whatever the precision of the weights: a rounded one would be another strength.
        """
        alpha = self.alpha * math.sqrt(self.rank) if self.rslora else self.alpha
        tensors, convolutions = {}, False
        for target, factors in self.factors():
            excess = factors.scale * factors.rank / alpha if alpha else 1.0  # not 1: rsLoRA of mixed ranks
            up = factors.up if math.isclose(excess, 1) else factors.up.float() * excess
            tensors[f"{target.kohya}.lora_down.weight"] = factors.down
            tensors[f"{target.kohya}.lora_up.weight"] = up
            tensors[f"{target.kohya}.alpha"] = torch.tensor(alpha, dtype=torch.float32)
            convolutions = convolutions or target.shape[2:] not in ((), (1, 1))
        arguments = {"conv_dim": str(self.rank), "conv_alpha": str(alpha)} if convolutions else {}
        said = header.modelspec(self.metadata, "lora") | header.kohya(self.metadata, self.rank, alpha, arguments)
        return Artifact(tensors, header.hashed(said, tensors))

    def to_diffusers(self) -> Artifact:
        """diffusers' (peft's) naming; alpha, rank and rsLoRA are in the header."""
        tensors: dict[str, Tensor] = {}
        networks: dict[str, dict[str, int]] = {}
        for target, factors in self.factors():
            tensors[f"{target.diffusers}.lora_A.weight"] = factors.down
            tensors[f"{target.diffusers}.lora_B.weight"] = factors.up
            networks.setdefault(target.part.prefix, {})[target.path] = factors.rank
        said = {k: v for k, v in header.modelspec(self.metadata, "lora").items() if not k.startswith("ss_")}
        configs: dict[str, Any] = {}
        for prefix, ranks in networks.items():
            configs[f"{prefix}.r"] = self.rank
            configs[f"{prefix}.lora_alpha"] = self.alpha
            configs[f"{prefix}.use_rslora"] = self.rslora
            configs[f"{prefix}.target_modules"] = list(ranks)
            configs[f"{prefix}.rank_pattern"] = {path: rank for path, rank in ranks.items() if rank != self.rank}
        said["lora_adapter_metadata"] = json.dumps(configs, sort_keys=True)
        return Artifact(tensors, header.hashed(said, tensors))

    def write(self, folder: Path, name: str, dtype: torch.dtype) -> list[Path]:
        """Write NAME.safetensors (kohya) and diffusers/pytorch_lora_weights.safetensors; their paths, in this order."""
        named = replace(self.to(dtype), metadata={"title": name, **self.metadata, "output_name": name})
        paths = [folder / f"{name}.safetensors", folder / DIFFUSERS_FILE]
        for path, artifact in zip(paths, (named.to_kohya(), named.to_diffusers()), strict=True):
            artifact.save(path)
        return paths

    def prove(self, paths: list[Path], base: LatentDiffusion) -> list[str]:
        """Load both files as other programs do, on a base that has no adapter; a sentence for each proof.

        Raises:
            RunError: a file would load in part, or with no effect.
        """
        from .verify import prove

        return prove(paths, base, self.metadata.get("trigger_phrase", "a picture"))

    def usage(self, paths: list[Path], prompt: str) -> str:
        """How to use the files in diffusers, ComfyUI and A1111, as Markdown."""
        from ..models.latent_diffusion import BUNDLED

        base = self.metadata["base"]
        bundled = base in BUNDLED
        source = f"BUNDLED[{json.dumps(base)}]" if bundled else json.dumps(base)
        also = "from tuner.models.latent_diffusion import BUNDLED\n" if bundled else ""
        kohya, diffusers = paths
        return (
            f"```python\nfrom diffusers import StableDiffusionPipeline\n{also}\n"
            f"pipe = StableDiffusionPipeline.from_pretrained({source})\n"
            f"pipe.load_lora_weights({json.dumps(diffusers.relative_to(kohya.parent).as_posix())})\n"
            f'pipe({json.dumps(prompt)}).images[0].save("picture.png")\n```\n\n'
            f"ComfyUI: put `{kohya.name}` into `models/loras` and choose it in a Load LoRA node.\n\n"
            f"A1111: put `{kohya.name}` into `models/Lora` and write `<lora:{kohya.stem}:1>` in the prompt.\n"
        )

    def flags(self, paths: list[Path], base: str) -> str:
        """What `tuner generate` is told to draw with the files."""
        from ..run import RunOptions

        elsewhere = "" if base == RunOptions.model_fields["base"].default else f" --base {shlex.quote(base)}"
        return f"--adapter {shlex.quote(str(paths[0]))}{elsewhere}"
