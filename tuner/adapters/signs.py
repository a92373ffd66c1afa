"""Signs by which a file's kind and family are told: words of its header, names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..models.family import FAMILIES
from .container import Entry

DOWN = (  # their first size is the rank
    "lora_down.weight", "lora_A.weight", "lora.down.weight", "lora_linear_layer.down.weight", "hada_w1_b",
)  # fmt: skip
WORD = "textual inversion"
"""What files of learned words are called."""
_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}  # of the text that cross-attention reads
_CHECKPOINTS = {
    "conditioner.embedders.1.": "sdxl", "cond_stage_model.model.": "sd2", "cond_stage_model.transformer.": "sd1",
}  # fmt: skip


def told(metadata: Mapping[str, str]) -> str:
    """The family that the header names; empty where it names none."""
    version = metadata.get("ss_base_model_version", "")
    architecture = metadata.get("modelspec.architecture", "").partition("/")[0]
    for name, family in FAMILIES.items():
        if version in family.versions.values() or architecture in family.architectures.values():
            return name
    return "sd2" if metadata.get("ss_v2") == "True" else ""


def predicts(metadata: Mapping[str, str]) -> str:
    """What the model that a file is for predicts, `epsilon` or `v_prediction`; empty where the header says nothing."""
    said = metadata.get("modelspec.prediction_type", "")
    if said:
        return {"v": "v_prediction"}.get(said, said)
    names = metadata.get("ss_base_model_version"), metadata.get("modelspec.architecture", "").partition("/")[0]
    for family in FAMILIES.values():
        for known in (family.versions, family.architectures):
            if len(set(known.values())) > 1:  # only where the names tell it
                found = [prediction for prediction, name in known.items() if name in names]
                if found:
                    return found[0]
    return ""


def seen(entries: Mapping[str, Entry], modules: Mapping[str, set[str]]) -> str:
    """The family that the tensors show: by the width of the text, else by names; empty where nothing shows it."""
    for module, roles in modules.items():
        if re.search(r"attn2[._]to_[kv]$", module):
            for role in roles & {*DOWN, "diff"}:
                shape = entries[f"{module}.{role}"].shape
                if len(shape) >= 2 and shape[1] in _WIDTHS:
                    return _WIDTHS[shape[1]]
    if any(module.startswith(("lora_te1_", "lora_te2_", "text_encoder_2.")) for module in modules):
        return "sdxl"
    return "sdxl" if any(module.startswith("lora_unet_input_blocks_") for module in modules) else ""


def other(entries: Mapping[str, Entry]) -> tuple[str, str]:
    """What a file is that changes no modules, and its family where the names tell it."""
    names = list(entries)

    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    if has("model.diffusion_model."):
        return "checkpoint", next((family for prefix, family in _CHECKPOINTS.items() if has(prefix)), "")
    if has("controlnet_cond_embedding.", "control_model.", "input_hint_block."):
        return "ControlNet", ""
    if {"clip_l", "clip_g"} <= set(names):
        return WORD, "sdxl"
    if len(names) <= 2 and all(len(entry.shape) in (1, 2) for entry in entries.values()) and names:
        width = next(iter(entries.values())).shape[-1]
        return WORD, {768: "sd1", 1024: "sd2"}.get(width, "")
    if has("adapter.body.", "body.0."):
        return "T2I-Adapter", ""
    if has("down_blocks.") and has("conv_in.", "time_embedding."):
        return "U-Net", ""
    if has("encoder.conv_in.", "decoder.conv_in."):
        return "autoencoder", ""
    if has("text_model.", "encoder.layers."):
        return "text encoder", ""
    return "tensors of no known kind", ""
