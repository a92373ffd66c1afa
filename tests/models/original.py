"""Stable Diffusion's original single-file layout, written from our parts: what `--base FILE` is tested on.

The names are those of github.com/CompVis/latent-diffusion (autoencoder), openai/CLIP and mlfoundations/open_clip (text
encoders), Stability-AI/generative-models (SDXL's prefixes).
"""

import re

import torch
from torch import Tensor

from tuner.adapters.sgm import original_name
from tuner.models.latent_diffusion import LatentDiffusion

_VAE = [
    (r"^(encoder|decoder)\.mid_block\.resnets\.0", r"\1.mid.block_1"),
    (r"^(encoder|decoder)\.mid_block\.resnets\.1", r"\1.mid.block_2"),
    (r"^(encoder|decoder)\.mid_block\.attentions\.0", r"\1.mid.attn_1"),
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2"),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.conv", r"encoder.down.\1.downsample.conv"),
    (r"^decoder\.up_blocks\.(\d+)\.resnets\.(\d+)", r"decoder.up.\1.block.\2"),
    (r"^decoder\.up_blocks\.(\d+)\.upsamplers\.0\.conv", r"decoder.up.\1.upsample.conv"),
    (r"\.conv_shortcut\.", ".nin_shortcut."), (r"\.conv_norm_out\.", ".norm_out."), (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."), (r"\.to_out\.0\.", ".proj_out."),
]  # fmt: skip
_OPEN_CLIP = [
    (r"^encoder\.layers\.(\d+)\.layer_norm1", r"transformer.resblocks.\1.ln_1"),
    (r"^encoder\.layers\.(\d+)\.layer_norm2", r"transformer.resblocks.\1.ln_2"),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc1", r"transformer.resblocks.\1.mlp.c_fc"),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc2", r"transformer.resblocks.\1.mlp.c_proj"),
    (r"^encoder\.layers\.(\d+)\.self_attn\.out_proj", r"transformer.resblocks.\1.attn.out_proj"),
    (r"^embeddings\.token_embedding", "token_embedding"), (r"^final_layer_norm", "ln_final"),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
]  # fmt: skip


def checkpoint(model: LatentDiffusion) -> dict[str, Tensor]:
    """All tensors of a model under their original names."""
    tensors = {}
    for name, tensor in model.unet.state_dict().items():
        path, _, leaf = name.rpartition(".")
        tensors[f"model.diffusion_model.{original_name(model.unet, path)}.{leaf}"] = tensor
    levels = len(model.vae.config.block_out_channels)
    for name, tensor in model.vae.state_dict().items():
        name = re.sub(r"decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up_blocks.{levels - 1 - int(m[1])}", name)
        attention = re.search(r"\.attentions\.0\.to_\w+(\.0)?\.weight$", name)  # 1x1 convolutions there
        tensors[f"first_stage_model.{_renamed(name, _VAE)}"] = tensor[..., None, None] if attention else tensor
    places = {
        "sd1": [("cond_stage_model.transformer.", _clip)], "sd2": [("cond_stage_model.model.", _open_clip)],
        "sdxl": [("conditioner.embedders.0.transformer.", _clip), ("conditioner.embedders.1.model.", _open_clip)],
    }[model.family.name]  # fmt: skip
    for encoder, (prefix, written) in zip(model.text_encoders, places, strict=True):
        states = {n.removeprefix("text_model."): t for n, t in encoder.state_dict().items() if "position_ids" not in n}
        tensors |= {prefix + name: tensor for name, tensor in written(states).items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _renamed(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _clip(states: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"text_model.{name}": tensor for name, tensor in states.items()}


def _open_clip(states: dict[str, Tensor]) -> dict[str, Tensor]:
    """q, k and v are one matrix there, and the projection is stored transposed."""
    found = {}
    for name, tensor in states.items():
        if ".q_proj." in name:
            all_three = torch.cat([states[name.replace(".q_proj.", f".{to}_proj.")] for to in "qkv"])
            layer, kind = name.split(".")[2], name.rpartition(".")[2]
            found[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = all_three
        elif name == "text_projection.weight":
            found["text_projection"] = tensor.T
        elif ".k_proj." not in name and ".v_proj." not in name:
            found[_renamed(name, _OPEN_CLIP)] = tensor
    return found
