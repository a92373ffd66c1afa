"""What layers are given while a base works: sums of x x^T, never the x themselves.

Layers that are given the same (q, k and v of an attention, all that cross-attention reads of a text) share one sum.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .changes import Change
from .naming import Target, layer_of, weight_of

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion

STEPS = 8  # of denoising
TEXT = "text"  # the states that cross-attention reads
_READS_TEXT = re.compile(r"attn2\.to_[kv]$")
_ALIKE = re.compile(r"(attn1\.to|self_attn)(_[qkv]_proj|_[qkv]|\.[qkv]_proj)$")


def key_of(target: Target) -> str:
    """What layers that are given the same have in common."""
    if target.part.attribute == "unet" and _READS_TEXT.search(target.path):
        return TEXT
    return _ALIKE.sub(r"\1", target.name)


@contextmanager
def added(base: LatentDiffusion, changes: Mapping[str, Change], targets: Mapping[str, Target]) -> Iterator[None]:
    """A base with these changes in its weights; in the end it has its own tensors again."""
    held: dict[str, Tensor] = {}
    try:
        for name, change in changes.items():
            weight: Any = weight_of(base, targets[name]).weight
            held[name] = weight.data
            weight.data = (weight.data.float() + change.delta(weight.data).to(weight.device)).to(weight.dtype)
        yield
    finally:
        for name, data in held.items():
            live: Any = weight_of(base, targets[name]).weight
            live.data = data


@torch.no_grad()
def sums(
    base: LatentDiffusion, targets: Iterable[Target], prompts: Sequence[str], seed: int, tick: Callable[[], None]
) -> dict[str, Tensor]:
    """The mean of x x^T over all that layers are given, by `key_of`: (d, d), in fp64.

    A text encoder's layers, and those that read its states, see the prompts; other layers a few steps of denoising.

    Args:
        base: as it is to work, adapter included.
        targets: the layers.
        prompts: what it is to work on.
        seed: of the noise; the same for all adapters.
        tick: called after each prompt.
    """
    first = {key_of(target): target for target in reversed(list(targets)) if key_of(target) != TEXT}
    found = {key: _Sum() for key in first}
    texts = {key: target for key, target in first.items() if target.part.attribute != "unet"}
    drawn = {key: target for key, target in first.items() if target.part.attribute == "unet"}
    read = _Sum()
    pipe = base.pipeline("ddim")
    for prompt in prompts:
        with _watched(base, texts, found):
            read.add(base.encode_prompts([prompt]).hidden.flatten(0, 1))
        if drawn:
            with _watched(base, drawn, found):
                pipe(
                    prompt, height=base.resolution, width=base.resolution, num_inference_steps=STEPS,
                    guidance_scale=1.0, output_type="latent", generator=torch.Generator().manual_seed(seed),
                )  # fmt: skip
        tick()
    return {key: one.mean for key, one in {**found, TEXT: read}.items() if one.count}


class _Sum:
    def __init__(self) -> None:
        self.count, self._sum = 0, torch.zeros(())

    def add(self, rows: Tensor) -> None:
        """Rows (N, d)."""
        wide = rows.double()
        self._sum, self.count = self._sum.to(wide) + wide.T @ wide, self.count + len(rows)

    @property
    def mean(self) -> Tensor:
        return (self._sum / self.count).cpu()


@contextmanager
def _watched(base: LatentDiffusion, layers: Mapping[str, Target], found: Mapping[str, _Sum]) -> Iterator[None]:
    """Within it, what the layers are given is summed."""
    with ExitStack() as stack:
        for key, target in layers.items():

            def note(layer: nn.Module, given: tuple[Tensor, ...], key: str = key) -> None:
                found[key].add(columns(layer, given[0]))

            stack.callback(layer_of(base, target).register_forward_pre_hook(note).remove)
        yield


def columns(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer's weight, flattened to (out, d), is multiplied with: (N, d)."""
    if not isinstance(layer, nn.Conv2d):
        return x.flatten(0, -2)
    assert layer.groups == 1 and isinstance(layer.padding, tuple)
    patches = nn.functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return patches.transpose(1, 2).flatten(0, 1)
