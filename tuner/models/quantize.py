"""Holding frozen weights in 8 or 4 bits: LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339) and NF4 (Dettmers et al.
2023, arXiv:2305.14314, section 3), by bitsandbytes, on a GPU or a CPU.
"""

from __future__ import annotations

import torch
from torch import nn

from ..errors import RequestError


def quantize_linear(unet: nn.Module, how: str) -> None:
    """Replace the linear layers of a U-Net's transformers, in place. Convolutions and time embeddings stay as they are.

    Args:
        unet: in full precision, on any device; the layers are packed where they are.
        how: `none`, `int8` or `nf4`.

    Raises:
        RequestError: bitsandbytes is not installed.
    """
    if how == "none":
        return
    try:
        import bitsandbytes as bnb
    except ImportError:
        raise RequestError(f"--quantize {how} needs bitsandbytes: pip install bitsandbytes.") from None
    for path, layer in list(unet.named_modules()):
        if not isinstance(layer, nn.Linear) or ".attentions." not in f".{path}":
            continue
        shape, bias = (layer.in_features, layer.out_features), layer.bias is not None
        packed: nn.Module
        if how == "nf4":
            packed = bnb.nn.Linear4bit(*shape, bias=bias, compute_dtype=layer.weight.dtype, quant_type="nf4")
            packed.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        else:
            packed = bnb.nn.Linear8bitLt(*shape, bias=bias, has_fp16_weights=False)
            packed.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
        packed.bias = layer.bias
        parent, _, name = path.rpartition(".")
        setattr(unet.get_submodule(parent), name, packed.to(layer.weight.device))


def is_packed(weight: torch.Tensor) -> bool:
    """Whether a weight is held in fewer bits than its layer computes with."""
    return not weight.is_floating_point()
