"""Adapters of random values, written as files without any training; and what a file's modules change, told again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.adapters.restated import comfyui
from tuner.adapters import header
from tuner.adapters.artifact import Artifact
from tuner.adapters.changes import Change, Full, LowRank
from tuner.adapters.lora import Lora
from tuner.adapters.lycoris import Hadamard, Kronecker
from tuner.adapters.naming import Target, spellings, targets, weight_of
from tuner.models.latent_diffusion import LatentDiffusion

# One place of each kind of layer, in the U-Net and in the text encoders
PLACES = r"unet\.(down_blocks\.\d\.attentions\.0\..*(to_q|to_k|to_v|to_out\.0|net\.0\.proj|proj_in)|mid_block.*conv1"
PLACES += r"|down_blocks\.\d\.downsamplers\.0\.conv|up_blocks\.0\.upsamplers\.0\.conv)"
PLACES += r"|text_encoder(_2)?\..*layers\.0\.(self_attn\.(q|k|v|out)_proj|mlp\.fc1)"


def adapter(
    base: LatentDiffusion, seed: int, rank: int = 3, alpha: float = 2.0, kind: str = "lora", where: str = PLACES,
    scale: float = 0.1, **facts: str,
) -> Lora:  # fmt: skip
    """An adapter of a kind in every layer whose name matches."""
    generator = torch.Generator().manual_seed(seed)
    known = {name: target for name, target in targets(base).items() if re.fullmatch(where, name)}

    def draw(*shape: int) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    changes = {name: _change(kind, target, rank, alpha, draw) for name, target in known.items()}
    return Lora(changes, known, {**header.facts(base), **facts})


def _change(kind: str, target: Target, rank: int, alpha: float, draw: Any) -> Change:
    out, *inputs = target.shape
    columns = torch.Size(inputs).numel()
    if kind == "full":
        return Full(draw(*target.shape))
    if kind == "loha":
        pairs = {
            f"hada_w{n}": draw(*size)
            for m in "12"
            for n, size in ((f"{m}_a", (out, rank)), (f"{m}_b", (rank, columns)))
        }
        return Hadamard(pairs, alpha)
    if kind == "lokr":
        return Kronecker(
            {"lokr_w1": draw(4, 4), "lokr_w2_a": draw(out // 4, rank), "lokr_w2_b": draw(rank, columns // 4)}, alpha
        )
    if kind == "core" and len(inputs) == 3:
        ends = draw(rank, inputs[0], 1, 1), draw(out, rank, 1, 1)
        return LowRank(*ends, alpha, mid=draw(rank, rank, *inputs[1:]))
    return LowRank(draw(rank, *inputs), draw(out, rank, *(1,) * (len(inputs) - 1)), alpha)


def saved(lora: Lora, path: Path, naming: str = "kohya", dtype: torch.dtype = torch.float32) -> Path:
    """The adapter as a file; a name of the file without its ending is its title."""
    named = Lora(lora.changes, lora.targets, {"title": path.stem, **lora.metadata})
    plain = named.low_rank().to(dtype) if naming == "diffusers" else named.to(dtype)
    (plain.to_diffusers() if naming == "diffusers" else plain.to_kohya()).save(path)
    return path


def with_rows(path: Path, base: LatentDiffusion) -> Path:
    """A LoRA's file in kohya's naming as a DoRA, as LyCORIS writes it: lengths of rows that are those of training."""
    artifact = Artifact.load(path)
    tensors = dict(artifact.tensors)
    generator = torch.Generator().manual_seed(1)
    for module, group in modules(path).items():
        weight = weight_of(base, targets(base)[spellings(base)[module]]).weight
        rows = comfyui(weight, group).flatten(1).norm(dim=1)
        rows = rows * (1 + 0.3 * torch.rand(rows.shape, generator=generator))
        tensors[f"{module}.dora_scale"] = rows.view(-1, *(1,) * (weight.ndim - 1)).detach()
    Artifact(tensors, artifact.metadata).save(path)
    return path


def modules(path: Path) -> dict[str, dict[str, Tensor]]:
    """A file's tensors in kohya's naming, by module and by ending."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in Artifact.load(path).tensors.items():
        module, _, role = key.partition(".")
        found.setdefault(module, {})[role] = tensor
    return found


@torch.no_grad()
def deltas(path: Path, base: LatentDiffusion) -> dict[str, Tensor]:
    """What a file in kohya's naming changes each weight by, in fp64, by ComfyUI's and LyCORIS' own arithmetic."""
    names, found = spellings(base), {}
    for module, group in modules(path).items():
        weight = weight_of(base, targets(base)[names[module]]).weight.double()
        wide = {role: tensor.double() for role, tensor in group.items()}
        scale = wide.pop("dora_scale", None)
        changed = comfyui(weight, wide)
        if scale is not None:  # LyCORIS, modules/locon.py: rows take these lengths
            norms = changed.flatten(1).norm(dim=1) + torch.finfo(torch.float32).eps
            norms = norms.view(-1, *(1,) * (weight.ndim - 1))
            changed = changed * scale / norms
        found[names[module]] = changed - weight
    return found


def apart(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The relative Frobenius distance over all modules."""
    assert found.keys() == wanted.keys()
    lost = sum(float((found[name].double() - wanted[name].double()).square().sum()) for name in wanted)
    return (lost / sum(float(tensor.double().square().sum()) for tensor in wanted.values())) ** 0.5


def summed(*parts: tuple[float, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The weighted sum of what files change."""
    found: dict[str, Tensor] = {}
    for weight, one in parts:
        for name, tensor in one.items():
            found[name] = found.get(name, torch.zeros_like(tensor)) + weight * tensor
    return found
