"""Networks beside a U-Net by which a picture steers it: ControlNet and T2I-Adapter, as diffusers has them.

ControlNet: Zhang et al. 2023 (arXiv:2302.05543). T2I-Adapter: Mou et al. 2023 (arXiv:2302.08453).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from ..errors import RequestError
from ..randomness import seed_of

if TYPE_CHECKING:
    from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel

ControlNetwork: TypeAlias = Any  # diffusers' ControlNetModel or T2IAdapter
WIDTHS = 16, 32, 96, 256  # of ControlNet's own encoder of conditions, from full resolution down


@dataclass(frozen=True)
class Residuals:
    """What is added to a U-Net's features.

    Attributes:
        skips: to each of the encoder's outputs, where the decoder takes them up (ControlNet).
        mid: to the middle's output (ControlNet).
        features: to each level of the encoder, and to the middle where there is one more (T2I-Adapter).
    """

    skips: tuple[Tensor, ...] = ()
    mid: Tensor | None = None
    features: tuple[Tensor, ...] = ()

    def __add__(self, other: Residuals) -> Residuals:
        mids = [mid for mid in (self.mid, other.mid) if mid is not None]
        mid = torch.stack(mids).sum(0) if mids else None
        return Residuals(_sum(self.skips, other.skips), mid, _sum(self.features, other.features))

    def repeated(self, count: int) -> Residuals:
        """Those of some pictures again and again, for so many."""
        return self._map(lambda map_: map_.repeat(count // len(map_), 1, 1, 1))

    def to(self, dtype: torch.dtype) -> Residuals:
        """In another precision."""
        return self._map(lambda map_: map_.to(dtype))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Residuals:
        mid = None if self.mid is None else change(self.mid)
        return Residuals(tuple(map(change, self.skips)), mid, tuple(map(change, self.features)))

    def arguments(self) -> dict[str, Any]:
        """As diffusers' U-Net takes them."""
        found: dict[str, Any] = {}
        if self.mid is not None:
            found = {"down_block_additional_residuals": self.skips, "mid_block_additional_residual": self.mid}
        if self.features:
            found["down_intrablock_additional_residuals"] = list(self.features)  # it empties the list
        return found


def _sum(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True)) if one and other else one or other


def residuals(
    network: ControlNetwork,
    control: Tensor,
    noisy: Tensor,
    t: Tensor,
    hidden: Tensor,
    added: Mapping[str, Tensor] | None = None,
    weight: float = 1.0,
) -> Residuals:
    """What a network adds to the U-Net's features, `weight` times, in the precision of `noisy`.

    Args:
        control: the picture that steers, (B, 3, H, W) in [0, 1].
        noisy, t: latents (B, C, h, w) and their timesteps.
        hidden, added: what the U-Net is told.
    """
    dtype, picture = network.dtype, _channels(network, control).to(network.dtype)
    if not sees_noise(network):
        return Residuals(features=tuple((weight * map_).to(noisy) for map_ in network(picture)))
    also = None if added is None else {name: value.to(dtype) for name, value in added.items()}
    skips, mid = network(noisy.to(dtype), t, hidden.to(dtype), picture, weight, added_cond_kwargs=also,
                         return_dict=False)  # fmt: skip
    return Residuals(tuple(skip.to(noisy) for skip in skips), mid.to(noisy))


def _channels(network: ControlNetwork, control: Tensor) -> Tensor:
    """The luminance alone, for networks of one channel."""
    config = network.config
    if (config.conditioning_channels if sees_noise(network) else config.in_channels) != 1:
        return control
    return (control * control.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)


def sees_noise(network: ControlNetwork) -> bool:
    """Whether it is a ControlNet; a T2I-Adapter sees its picture alone, and adds the same at every step."""
    return hasattr(network, "controlnet_cond_embedding")


def new_controlnet(unet: UNet2DConditionModel, scale: int, seed: int) -> ControlNetModel:
    """A copy of the U-Net's encoder and middle, with zero convolutions, on the CPU.

    Args:
        scale: pixels to a latent's side.
        seed: of the weights of the encoder of conditions.
    """
    from diffusers import ControlNetModel

    halvings = scale.bit_length() - 1
    widths = (*WIDTHS, *WIDTHS[-1:] * halvings)[: halvings + 1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "controlnet"))
        return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=widths)


def new_t2i_adapter(unet: UNet2DConditionModel, scale: int, seed: int) -> T2IAdapter:
    """A full adapter of the U-Net's widths, or SDXL's where the levels are halved as SDXL's, on the CPU.

    Its first convolution and all its biases are zero, so that its features are: at first nothing passes.

    Raises:
        RequestError: the U-Net's levels are not like those that diffusers has adapters for.
    """
    from diffusers import T2IAdapter

    levels = levels_of(unet)
    widths, halvings = [width for width, _ in levels], [halved for _, halved in levels]
    kind = {"adapter_type": "full_adapter", "channels": widths, "downscale_factor": scale}
    if halvings == [1, 1, 2]:
        kind = {"adapter_type": "full_adapter_xl", "channels": [*widths, widths[-1]], "downscale_factor": 2 * scale}
    elif halvings != list(range(len(levels))):
        shown = ", ".join(unet.config.down_block_types)
        raise RequestError(f"diffusers has no T2I-Adapter for a U-Net of the levels {shown}; train a ControlNet.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "t2i-adapter"))
        made = T2IAdapter(**kind)
    for path, parameter in made.named_parameters():
        if path.endswith("bias") or ".conv_in." in path:
            torch.nn.init.zeros_(parameter)
    return made


def levels_of(unet: UNet2DConditionModel) -> list[tuple[int, int]]:
    """Where a U-Net takes up an adapter's features: the width, and how often its latents were halved, level by level.

    A level with attention takes them before it halves, one without after it.
    """
    kinds, widths = unet.config.down_block_types, unet.config.block_out_channels
    last = len(kinds) - 1
    return [(width, k + (kind == "DownBlock2D" and k < last))
            for k, (kind, width) in enumerate(zip(kinds, widths, strict=True))]  # fmt: skip
