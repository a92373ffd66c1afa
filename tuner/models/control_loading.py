"""Loading a control network, and whether it fits a base."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..errors import RequestError
from .control import ControlNetwork, levels_of, residuals, sees_noise

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


def load_control(folder: str, unet: UNet2DConditionModel, scale: int, of: str = "") -> ControlNetwork:
    """A control network from a diffusers folder, on the CPU, in fp32.

    Args:
        of: the only kind that will do, ControlNetModel or T2IAdapter.

    Raises:
        RequestError: there is none, it cannot be loaded whole, or it does not fit the U-Net.
    """
    import diffusers

    try:
        name = str(diffusers.ControlNetModel.load_config(folder, local_files_only=True).get("_class_name"))
    except (OSError, ValueError):
        raise RequestError(f"--control {folder} is not a control network; name a diffusers folder of one.") from None
    if name not in ((of,) if of else ("ControlNetModel", "T2IAdapter")):
        wanted = of or "ControlNetModel or T2IAdapter"
        raise RequestError(f"--control {folder} is a {name}; what is wanted is a {wanted}.")
    try:
        network, info = getattr(diffusers, name).from_pretrained(
            folder, use_safetensors=True, torch_dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise RequestError(f"--control {folder} could not be loaded: {reason}.") from error
    missing = [*info["missing_keys"], *(n for n, p in network.named_parameters() if not p.isfinite().all())]
    if missing:
        raise RequestError(f"--control {folder} is not whole: `{missing[0]}` is missing or not finite.")
    if wrong := _misfit(network, unet, scale):
        raise RequestError(f"--control {folder} does not fit this base: {wrong}; name the base it was made for.")
    return network.requires_grad_(False).eval()


_SAME = ("in_channels", "block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim",
         "transformer_layers_per_block", "addition_embed_type")  # fmt: skip


def _misfit(network: ControlNetwork, unet: UNet2DConditionModel, scale: int) -> str:
    """Why a network does not fit; empty where it does."""
    if not sees_noise(network):
        return _misfit_of_features(network, unet, scale)
    plain = lambda value: tuple(value) if isinstance(value, list | tuple) else value  # noqa: E731
    for name in _SAME:
        its, own = plain(getattr(network.config, name)), plain(getattr(unet.config, name))
        if its != own:
            return f"its {name} is {its}, the base's {own}"
    halved = 2 ** (len(network.config.conditioning_embedding_out_channels) - 1)
    return "" if halved == scale else f"it takes {halved} pixels for a latent's side, the base {scale}"


@torch.no_grad()
def _misfit_of_features(network: ControlNetwork, unet: UNet2DConditionModel, scale: int) -> str:
    levels = levels_of(unet)
    side = 2 ** len(levels)  # in latents
    wanted = [(width, side >> halved) for width, halved in levels]
    try:
        made = residuals(network, torch.zeros(1, 3, side * scale, side * scale), torch.zeros(()), torch.zeros(()),
                         torch.zeros(()))  # fmt: skip
    except RuntimeError:
        return f"it works on {network.config.downscale_factor} pixels at once, the base on {scale}"
    found = [(map_.shape[1], map_.shape[-1]) for map_ in made.features]
    middle = (levels[-1][0], side >> (len(levels) - 1))
    if found in (wanted, [*wanted, middle]):
        return ""
    its, own = (
        ", ".join(f"{width} every {side * scale // length} pixels" for width, length in maps)
        for maps in (found, wanted)
    )
    return f"its features are {its}, the base's {own}"
