"""What ComfyUI and A1111 do with a kohya-named file, told from their sources: the names that they match.

- ComfyUI (comfy/lora.py, `model_lora_keys_unet` and `model_lora_keys_clip`; comfy/utils.py, `unet_to_diffusers`): its
  models have the original layout. It matches `lora_unet_` with the original names and, by a table made from the model's
  configuration, with diffusers' names; of a text encoder the six matrices a layer, and the second one's projection.
- A1111 (extensions-builtin/Lora/networks.py, `convert_diffusers_name_to_compvis` and `load_network`): it rewrites
  diffusers' names to the original ones by fixed formulas for Stable Diffusion's layout, and looks them up among its
  modules; a name that no formula finds is looked up as it stands. `a1111_map` has those formulas. They count two
  residual blocks a level; for a base of another depth we take its own count: such a base does not load in A1111 anyhow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .naming import Target, targets

if TYPE_CHECKING:
    from .naming import Base

_LAYER = re.compile(r"encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])$")
_ATTENTION = re.compile(r"(.*self_attn)\.(q|k|v|out)_proj$")


def comfyui_map(base: Base) -> dict[str, str]:
    """The kohya names that ComfyUI matches in a model of this architecture -> canonical names."""
    return {word: name for name, target in targets(base).items() if _comfyui(target) for word in target.spellings}


def _comfyui(target: Target) -> bool:
    if target.part.attribute == "unet":
        return bool(target.original)
    projection = target.part.attribute == "text_encoder_2" and target.path == "text_projection"
    return projection or bool(_LAYER.search(target.path))


def a1111_map(base: Base) -> dict[str, str]:
    """The kohya names that A1111 matches in a model of this architecture -> canonical names."""
    found = targets(base)
    depth = _depth(found)
    names: dict[str, str] = {}
    for name, target in found.items():
        if target.part.attribute != "unet":
            names |= {target.kohya: name} if _LAYER.search(target.path) else {}
            continue
        if target.original:
            names[target.by_original] = name
            if _formula(target.path, depth) == target.original:
                names[target.by_path] = name
    return names


def _depth(found: Mapping[str, Target]) -> int:
    """Residual blocks a level, on the way down."""
    return len({t.path.split(".")[3] for t in found.values() if t.path.startswith("down_blocks.0.resnets.")})


_FIXED = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2", "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}  # fmt: skip
_RESNET = {
    "conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}  # fmt: skip


def _formula(path: str, depth: int) -> str:
    """The original name that A1111's formulas make of a diffusers path, right or wrong; empty where they know none."""
    if path in _FIXED:
        return _FIXED[path]
    words = path.split(".")
    if words[0] == "mid_block":
        kind, index, rest = words[1], int(words[2]), ".".join(words[3:])
        place = "1" if kind == "attentions" else str(2 * index)
        return f"middle_block.{place}.{rest if kind == 'attentions' else _RESNET.get(rest, rest)}"
    if words[0] not in ("down_blocks", "up_blocks"):
        return ""
    level, kind, index, rest = int(words[1]), words[2], int(words[3]), ".".join(words[4:])
    side, first = ("input_blocks", 1) if words[0] == "down_blocks" else ("output_blocks", 0)
    number = first + level * (depth + 1) + index
    if kind == "attentions":
        return f"{side}.{number}.1.{rest}"
    if kind == "resnets":
        return f"{side}.{number}.0.{_RESNET.get(rest, rest)}"
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * (depth + 1)}.0.op"
    return f"output_blocks.{depth + level * (depth + 1)}.{2 if level else 1}.conv"


def joined_attentions(base: Base) -> dict[str, str]:
    """Canonical name of q, k, v or out -> its attention, in encoders of which A1111 changes whole attentions only."""
    found = {}
    for name, target in targets(base).items():
        match = _ATTENTION.match(name)
        if match and target.part.openclip:
            found[name] = match[1]
    return found
