"""Writing what an adapter does into a base's own weights: as a diffusers folder, or as a single file.

A single file is made from a single file: the tensors that change are replaced, and all others, their names and their
precision stay as they are. Names in the original layout: `sgm` for the U-Net; openai/CLIP's and mlfoundations/
open_clip's for the text encoders, of which the latter holds q, k and v as one matrix and its projection transposed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import RequestError
from .artifact import Artifact
from .changes import Change
from .header import hashed
from .naming import Target, weight_of

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion
    from ..sampling.manner import Manner

_ENCODERS = {
    ("sd1", "text_encoder"): "cond_stage_model.transformer.text_model.", ("sd2", "text_encoder"):
    "cond_stage_model.model.", ("sdxl", "text_encoder"): "conditioner.embedders.0.transformer.text_model.",
    ("sdxl", "text_encoder_2"): "conditioner.embedders.1.model.",
}  # fmt: skip
_OPENCLIP = {
    "self_attn.out_proj": "attn.out_proj.weight", "mlp.fc1": "mlp.c_fc.weight", "mlp.fc2": "mlp.c_proj.weight",
    **{f"self_attn.{name}_proj": "attn.in_proj_weight" for name in "qkv"},
}  # fmt: skip


def bake(model: LatentDiffusion, changes: Mapping[str, Change], targets: Mapping[str, Target]) -> None:
    """Add the changes to a base's weights."""
    for name, change in changes.items():
        weight: Any = weight_of(model, targets[name]).weight
        weight.data = (weight.data.float() + change.delta(weight.data).to(weight.device)).to(weight.dtype)


def write_folder(model: LatentDiffusion, out: Path, dtype: torch.dtype, manner: Manner | None = None) -> None:
    """Write a model as a diffusers folder, which says how it wants to be drawn with.

    Raises:
        RequestError: its weights do not fit the precision.
    """
    from ..models.architecture import save

    for part, network in model.networks.items():
        for name, tensor in network.state_dict().items():
            _check_fits(tensor, dtype, f"{part}.{name}")
    save(model, out, dtype, manner)


def write_file(
    source: Path, family: str, changes: Mapping[str, Change], targets: Mapping[str, Target], out: Path,
    dtype: torch.dtype | None, said: Mapping[str, str],
) -> None:  # fmt: skip
    """Write a single-file checkpoint that has the changes.

    Args:
        source: the checkpoint that they are added to.
        family: its family's name.
        dtype: the precision of everything; None leaves each tensor in its own.
        said: what joins the header.

    Raises:
        RequestError: the checkpoint lacks a tensor that changes, or values do not fit the precision.
    """
    artifact = Artifact.load(source)
    tensors = dict(artifact.tensors)
    for name, change in changes.items():
        key, rows, turned = place_in(targets[name], family)
        if key not in tensors:
            raise RequestError(f"{source} has no `{key}`, which the adapters change; give --out a folder instead.")
        whole = tensors[key].float()
        part = whole.T if turned else whole
        part = part.chunk(3)[rows] if rows is not None else part
        added = (part + change.delta(part)).reshape(part.shape)
        if rows is not None:
            added = torch.cat([added if n == rows else other for n, other in enumerate(whole.chunk(3))])
        tensors[key] = (added.T if turned else added).to(dtype or tensors[key].dtype).contiguous()
        _check_fits(tensors[key], tensors[key].dtype, key)
    if dtype is not None:
        tensors = dict(Artifact(tensors).to(dtype).tensors)
    header = {**artifact.metadata, **said}
    if "modelspec.hash_sha256" in header:
        header = hashed(header, tensors)
    Artifact(tensors, header).save(out)


def place_in(target: Target, family: str) -> tuple[str, int | None, bool]:
    """A layer's weight in a checkpoint: its name, which third of its rows it is, and whether it stands transposed."""
    if target.part.attribute == "unet":
        return f"model.diffusion_model.{target.original}.weight", None, False
    prefix, path = _ENCODERS[family, target.part.attribute], target.path.removeprefix("text_model.")
    if not target.part.openclip:
        return f"{prefix}{path}.weight", None, False
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", path)
    if match is None:
        return f"{prefix}{path}", None, True  # text_projection
    rows = {"q_proj": 0, "k_proj": 1, "v_proj": 2}.get(match[2].rpartition(".")[2])
    return f"{prefix}transformer.resblocks.{match[1]}.{_OPENCLIP[match[2]]}", rows, False


def _check_fits(tensor: Tensor, dtype: torch.dtype, name: str) -> None:
    if tensor.is_floating_point() and not tensor.to(dtype).isfinite().all():
        raise RequestError(f"The values of `{name}` do not fit the precision; write --save-precision fp32 or bf16.")
