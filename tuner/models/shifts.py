"""Layers whose weights are shifted: a difference in their own shape, zero at first, that can be taken off and put back.

Training the difference is training the weight (but for weight decay, which then holds on to the base), with the base's
own weight still there: a model with its shifts taken off is its own frozen teacher, without a second copy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .quantize import weight_in


class Shift(nn.Module):
    """A linear or convolutional layer with a difference added to its weight; only the difference may train."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.base_layer, self.on = layer, True  # called as peft calls it, so that the layer keeps its name in files
        shape = (layer.out_features, layer.in_features) if isinstance(layer, nn.Linear) else layer.weight.shape
        self.difference = nn.Parameter(torch.zeros(shape, device=layer.weight.device))

    def enable_adapters(self, enabled: bool) -> None:
        """Put the difference on, or take it off; called as peft calls it."""
        self.on = enabled

    def weight(self) -> Tensor:
        """The layer's own weight as a matrix of numbers."""
        return weight_in(self.base_layer)

    def forward(self, x: Tensor, *_: float) -> Tensor:
        layer = self.base_layer
        plain: Tensor = layer(x)
        if not self.on:
            return plain
        if isinstance(layer, nn.Conv2d):
            kernel = self.difference.to(x.dtype)
            return plain + functional.conv2d(x, kernel, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        return plain + functional.linear(x, self.difference.to(x.dtype))


class Shifts(nn.Module):
    """Shifts by the paths of their layers, which names of modules could not be: they have dots."""

    def __init__(self, shifts: Mapping[str, Shift]) -> None:
        super().__init__()
        self._paths = tuple(shifts)
        self._shifts = nn.ModuleList(shifts.values())

    def items(self) -> Iterator[tuple[str, Shift]]:
        """Paths and shifts."""
        return zip(self._paths, cast("list[Shift]", list(self._shifts)), strict=True)


def shift(network: nn.Module, pattern: str) -> Shifts:
    """Put a shift on every linear and convolutional layer of a network whose path matches `pattern`."""
    found = {
        path: layer
        for path, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and re.fullmatch(pattern, path)
    }
    shifts = {path: Shift(layer) for path, layer in found.items()}
    for path, one in shifts.items():
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, one)
    return Shifts(shifts)


@contextmanager
def unadapted(network: nn.Module) -> Iterator[None]:
    """Within it, the network is as it was before peft put adapters on its layers, or shifts were."""
    layers: list[Any] = [module for module in network.modules() if hasattr(module, "base_layer")]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
