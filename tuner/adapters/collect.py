"""From live layers that peft or a recipe has put into a base to changes of its weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..models.quantize import weight_in
from ..models.shifts import Shift
from .changes import Change, Full, LowRank
from .dora import Decomposed
from .lycoris import Hadamard, Kronecker

if TYPE_CHECKING:
    from torch import nn


def collected(layer: nn.Module, adapter: str) -> Change | None:
    """What an adapter of peft's, or a shift, does to a layer; None where there is nothing.

    Raises:
        ValueError: it is of a kind, or at a weight, that files do not have.
    """
    from peft.tuners.loha import LoHaLayer
    from peft.tuners.lokr import LoKrLayer
    from peft.tuners.lora import LoraLayer

    found: Any = layer
    if isinstance(layer, Shift):
        return Full(_copy(layer.difference))
    if isinstance(layer, LoraLayer):
        return _low_rank(found, adapter) if adapter in found.lora_A else None
    if isinstance(layer, LoHaLayer):
        return _hadamard(found, adapter) if adapter in found.hada_w1_a else None
    if isinstance(layer, LoKrLayer):
        return _kronecker(found, adapter) if adapter in found._available_adapters else None
    return None


def _copy(parameter: Tensor) -> Tensor:
    return parameter.detach().to("cpu", copy=True)


def _low_rank(layer: Any, adapter: str) -> Change:
    down, up = _copy(layer.lora_A[adapter].weight), _copy(layer.lora_B[adapter].weight)
    if layer.lora_B[adapter].bias is not None:
        raise ValueError("a LoRA layer has a bias, which no file holds")
    change = LowRank(down, up, float(layer.lora_alpha[adapter]), layer.use_rslora[adapter])
    _check(layer.scaling[adapter], change.scale)
    if adapter not in layer.lora_magnitude_vector:
        return change
    magnitude = _copy(layer.lora_magnitude_vector[adapter].weight).float()
    return Decomposed.on(weight_in(layer.get_base_layer()).cpu(), change, magnitude)


def _hadamard(layer: Any, adapter: str) -> Hadamard:
    change = Hadamard(_held(layer, adapter, "hada_"), float(layer.alpha[adapter]))
    _check(layer.scaling[adapter], change.scale)
    return change


def _kronecker(layer: Any, adapter: str) -> Kronecker:
    """Two whole factors have no rank in a file, and so no alpha: peft's scale moves into the first one."""
    held = _held(layer, adapter, "lokr_")
    change = Kronecker(held, float(layer.alpha[adapter]))
    if change.rank:
        _check(layer.scaling[adapter], change.scale)
        return change
    return Kronecker({**held, "lokr_w1": held["lokr_w1"] * layer.scaling[adapter]}, None)


def _held(layer: Any, adapter: str, prefix: str) -> dict[str, Tensor]:
    """peft's parameters of this adapter, under LyCORIS' names: they are the same."""
    names = [name for name in layer.adapter_layer_names if name.startswith(prefix)]
    return {name: _copy(getattr(layer, name)[adapter]) for name in names if adapter in getattr(layer, name)}


def _check(scaling: float, expected: float) -> None:
    if not math.isclose(scaling, expected, rel_tol=1e-6):
        raise ValueError(f"a layer's scale is {scaling}, not the {expected} of its alpha and rank")
