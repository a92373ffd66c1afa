"""What a U-Net's modules are called in Stable Diffusion's original layout, for any family and any number of blocks.

The layout (Rombach et al. 2022, github.com/CompVis/latent-diffusion, openaimodel.py; SDXL's is the same in
github.com/Stability-AI/generative-models) counts `input_blocks` and `output_blocks` through all levels: block 0 is the
first convolution, then come each level's residual blocks, each with the attention behind it, and its downsampling.
Upsampling stands in the block of its level's last residual block. Only SDXL's adapters use these names, behind
`lora_unet_` and with underscores; single-file checkpoints of all families use them behind `model.diffusion_model.`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_ENDS = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "class_embedding.linear_1": "label_emb.0.0", "class_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip


def block_names(unet: UNet2DConditionModel) -> dict[str, str]:
    """`down_blocks.1.attentions.0` -> `input_blocks.4.1`: every block of a U-Net, read from the U-Net itself."""
    names: dict[str, str] = {}
    number = 1
    for level, block in enumerate(unet.down_blocks):
        number = _level(names, f"down_blocks.{level}", block, "input_blocks", number)
        if getattr(block, "downsamplers", None):
            names[f"down_blocks.{level}.downsamplers.0"] = f"input_blocks.{number}.0"
            number += 1
    for kind, first in (("resnets", 0), ("attentions", 1)):
        for index in range(len(getattr(unet.mid_block, kind, ()))):
            names[f"mid_block.{kind}.{index}"] = f"middle_block.{2 * index + first}"
    number = 0
    for level, block in enumerate(unet.up_blocks):
        number = _level(names, f"up_blocks.{level}", block, "output_blocks", number)
        if getattr(block, "upsamplers", None):
            place = 2 if hasattr(block, "attentions") else 1
            names[f"up_blocks.{level}.upsamplers.0"] = f"output_blocks.{number - 1}.{place}"
    return names


def _level(names: dict[str, str], path: str, block: Any, side: str, number: int) -> int:
    """Name one level's residual blocks and attentions from `number` on; the number behind them."""
    for index in range(len(block.resnets)):
        names[f"{path}.resnets.{index}"] = f"{side}.{number + index}.0"
        if hasattr(block, "attentions"):
            names[f"{path}.attentions.{index}"] = f"{side}.{number + index}.1"
    return number + len(block.resnets)


def original_names(unet: UNet2DConditionModel) -> dict[str, str]:
    """A module's path in diffusers -> its original name, for every module that the original layout has.

    Modules that it does not have (those of an image encoder, say) are left out.
    """
    blocks = block_names(unet)
    found = {path: _original(path, blocks) for path, _ in unet.named_modules()}
    return {path: name for path, name in found.items() if name}


def original_name(unet: UNet2DConditionModel, path: str) -> str:
    """`down_blocks.0.resnets.0.conv1` -> `input_blocks.1.0.in_layers.2`.

    Raises:
        KeyError: the original layout has no such module.
    """
    name = _original(path, block_names(unet))
    if not name:
        raise KeyError(path)
    return name


def _original(path: str, blocks: dict[str, str]) -> str:
    """The original name of a module, empty where there is none."""
    if path in _ENDS:
        return _ENDS[path]
    words = path.split(".")
    length = 3 if words[0] == "mid_block" else 4
    block, rest = ".".join(words[:length]), ".".join(words[length:])
    if block not in blocks or not rest:
        return blocks.get(block, "")
    kind = words[length - 2]
    if kind == "attentions":
        return f"{blocks[block]}.{rest}"
    inner = {"resnets": _RESNET, "downsamplers": {"conv": "op"}, "upsamplers": {"conv": "conv"}}[kind].get(rest)
    return f"{blocks[block]}.{inner}" if inner else ""
