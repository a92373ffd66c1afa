"""The kinds of layers that training chooses among, by the names that options call them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from ..randomness import seed_of

if TYPE_CHECKING:
    from torch.nn import Module

Layer = Literal["attention", "cross-attention", "feed-forward", "projections", "convolutions"]

# Their paths in the U-Net, and in a text encoder. Attention's q, k, v and out train together: text-encoder files of
# fewer are refused by some loaders.
PATHS: Mapping[Layer, tuple[str, str]] = {
    "attention": (r"attn[12]\.to_(q|k|v|out\.0)", r"self_attn\.(q|k|v|out)_proj"),
    "cross-attention": (r"attn2\.to_(q|k|v|out\.0)", r"self_attn\.(q|k|v|out)_proj"),
    "feed-forward": (r"ff\.net\.(0\.proj|2)", r"mlp\.fc[12]"),
    "projections": (r"attentions\.\d+\.proj_(in|out)", ""),
    "convolutions": (r"resnets\.\d+\.conv(1|2|_shortcut)|(down|up)samplers\.\d+\.conv", ""),
}


def paths_of(layers: Iterable[Layer], text_encoder: bool = False) -> str:
    """A pattern of the paths of layers in the U-Net, or in a text encoder; empty where it has none of these."""
    found = "|".join(filter(None, (PATHS[layer][text_encoder] for layer in layers)))
    return rf"(.*\.)?({found})" if found else ""


def add_lora(network: Module, paths: str, rank: int, seed: int, without: str | None = None) -> None:
    """Put a LoRA of a rank on the layers of a network whose paths match `paths` and not `without`.

    It alone trains then: peft freezes all else that it finds.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds to import: `--help` need not wait for it

    from .folding import fold

    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(seed_of(seed, "lora"))
        settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=paths, exclude_modules=without)
        inject_adapter_in_model(settings, network)
    fold(network)


def innermost(network: Module) -> None:
    """Order frozen kernels with their channels innermost: on a CPU steps are by a quarter, pictures an eighth faster.

    What trains keeps its order in memory: fused optimizers pair it with what they remember by place alone.
    """
    import torch

    for parameter in network.parameters():
        if parameter.ndim == 4 and not parameter.requires_grad:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
