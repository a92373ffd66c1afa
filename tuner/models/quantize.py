"""Holding frozen weights in 8 or 4 bits: LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339) and NF4 (Dettmers et al.
2023, arXiv:2305.14314, section 3), by bitsandbytes, on a GPU or a CPU.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

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
        packed: Any
        if how == "nf4":
            packed = bnb.nn.Linear4bit(*shape, bias=bias, compute_dtype=layer.weight.dtype, quant_type="nf4")
            packed.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
            packed.support_avx512bf16_for_cpu = False  # else packed anew at the first pass, sizes of 32 n alone
        else:
            packed = _linear_8bit()(*shape, bias=bias, has_fp16_weights=False)
            packed.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
        packed.bias = layer.bias
        parent, _, name = path.rpartition(".")
        setattr(unet.get_submodule(parent), name, packed.to(layer.weight.device))


@cache
def _linear_8bit() -> type:
    """bitsandbytes' layer, whose scales outlive what peft's DoRA does to its weight on a CPU.

    There DoRA moves the weight anew at each pass, and the layer would take the moved one's scales, which are gone.
    """
    import bitsandbytes as bnb

    class Linear8bit(bnb.nn.Linear8bitLt):
        def init_8bit_state(self) -> None:
            scales = self.state.SCB if self.weight.SCB is None else self.weight.SCB
            super().init_8bit_state()
            self.state.SCB = scales

    return Linear8bit


def weight_in(layer: nn.Module) -> Tensor:
    """A base layer's weight as numbers, also where it is held in fewer bits."""
    from peft.utils.integrations import dequantize_module_weight

    weight: Any = layer.weight
    plain = type(weight) in (torch.nn.Parameter, Tensor)
    return weight.detach() if plain else dequantize_module_weight(layer).detach()
