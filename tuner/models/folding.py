"""LoRA layers whose update is added to the weight before anything goes through it, where that is less work.

peft sends what enters a layer through the layer, and through two narrow matrices beside it: W x + s B (A x). Where
the rank is wide beside the layer, as a distilled LoRA's is in a small network, (W + s B A) x is the same in fewer
multiplications and fewer passes over memory. What is learned, and how it is saved, is peft's own. On a CPU alone: there
it was measured, and a GPU may round what is added to a weight (TF32).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional


def fold(network: nn.Module) -> None:
    """Let the LoRAs of a network fold where that pays, in place: plain ones, wide enough that steps may gain by it."""
    layers: list[Any] = [layer for layer in network.modules() if type(layer) in KINDS]
    for layer in layers:
        if len(layer.lora_A) == 1 and _plain(layer) and 3 * _beside(layer) > layer.base_layer.weight.numel():
            layer.__class__ = KINDS[type(layer)]


def folding(network: nn.Module) -> set[nn.Parameter]:
    """The weights on which updates are folded, which are to be held as they are, whatever they compute in."""
    layers: list[Any] = [layer for layer in network.modules() if isinstance(layer, _Folds)]
    return {layer.base_layer.weight for layer in layers if layer.base_layer.weight.device.type == "cpu"}


class _Folds:
    """What both kinds of layers share; a parent beside peft's."""

    def forward(self, x: Tensor, *args: Any, **more: Any) -> Any:
        it: Any = self
        alone = len(it.lora_A) == 1 and it.active_adapters == list(it.lora_A)
        if args or more or it.disable_adapters or it.merged or not alone or not _plain(it) or not _pays(it, x):
            return super().forward(x, *args, **more)  # type: ignore[misc]
        (name,), weight = it.lora_A, it.base_layer.weight
        update = (it.lora_B[name].weight.flatten(1) @ it.lora_A[name].weight.flatten(1)).view(weight.shape)
        return it.through(x, torch.add(weight, update, alpha=it.scaling[name]))


class FoldsLinear(_Folds, lora.Linear):
    def through(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.linear(x, weight, self.base_layer.bias)


class FoldsConv2d(_Folds, lora.Conv2d):
    def through(self, x: Tensor, weight: Tensor) -> Tensor:
        it = self.base_layer
        return functional.conv2d(x, weight, it.bias, it.stride, it.padding)


KINDS: dict[type, type] = {lora.Linear: FoldsLinear, lora.Conv2d: FoldsConv2d}


def _plain(layer: Any) -> bool:
    """Whether there is nothing but W, A, B and their scale."""
    base, (name,) = layer.base_layer, layer.lora_A
    usual = {"groups": 1, "dilation": (1, 1), "padding_mode": "zeros"}  # of convolutions
    whole = type(base) in (nn.Linear, nn.Conv2d) and all(
        getattr(base, key, value) == value for key, value in usual.items()
    )
    alone = name not in layer.lora_variant and isinstance(layer.lora_dropout[name], nn.Identity)
    return whole and alone and layer.lora_B[name].bias is None


def _beside(layer: Any) -> int:
    """Weights of A and B."""
    (name,) = layer.lora_A
    return layer.lora_A[name].weight.numel() + layer.lora_B[name].weight.numel()


def _pays(layer: Any, x: Tensor) -> bool:
    """Whether there are fewer multiplications, forward and (where a step follows) backward; `x` is what enters.

    Not where the weight is held in half precision, which would swallow a small update. One that is held whole, and
    rounded after the update was added, keeps most of it in the sum over many weights: of an update of a thousandth all,
    where half of it is lost when it is added to what has been rounded, as peft does. (Weights that were in bfloat16
    before lose as much either way.)
    """
    (name,), weight = layer.lora_A, layer.base_layer.weight
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return False
    places = x.numel() // weight.shape[1] // math.prod(getattr(layer.base_layer, "stride", (1,)))
    beside, product = places * _beside(layer), weight.numel() * layer.r[name]
    return 3 * beside > 3 * product + places * weight.numel() if torch.is_grad_enabled() else beside > product
