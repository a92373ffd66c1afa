"""Loading a control network, whether it fits a base, and what it draws after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import torch

from ..adapters.container import read_header
from ..config import read_toml
from ..data.options import Condition
from ..errors import RequestError
from .control import ControlNetwork, levels_of, residuals, sees_noise

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONDITIONS, GIVEN = get_args(Condition), "given"  # what can be computed of a picture; what was given with them


def trained_with(folder: Path) -> str:
    """The condition that a network draws after, `given` where its conditions were given; "" where nothing says.

    The header of its file says it; of folders without, the config.toml of the run that they lie in.
    """
    file, run = folder / WEIGHTS, folder.resolve().parent / "config.toml"
    said = read_header(file).metadata.get("tuner.condition", "") if file.is_file() else ""
    if not said and run.is_file():
        said = str(read_toml(run).get("condition", ""))
    return said if said in CONDITIONS else said and GIVEN


def kind_of(folder: str, of: str = "") -> str:
    """ControlNetModel or T2IAdapter, as a diffusers folder says; `of` is the only one that will do.

    Raises:
        RequestError: it is neither, or another than what is wanted.
    """
    import diffusers

    try:
        name = str(diffusers.ControlNetModel.load_config(folder, local_files_only=True).get("_class_name"))
    except (OSError, ValueError):
        raise RequestError(f"--control {folder} is not a control network; name a diffusers folder of one.") from None
    if name not in ((of,) if of else ("ControlNetModel", "T2IAdapter")):
        wanted = of or "ControlNetModel or T2IAdapter"
        raise RequestError(f"--control {folder} is a {name}; what is wanted is a {wanted}.")
    return name


def load_control(folder: str, unet: UNet2DConditionModel, scale: int, of: str = "") -> ControlNetwork:
    """A control network from a diffusers folder, on the CPU, in fp32.

    Args:
        of: the only kind that will do, ControlNetModel or T2IAdapter.

    Raises:
        RequestError: as `kind_of`; it cannot be loaded whole, or does not fit the U-Net.
    """
    import diffusers

    name = kind_of(folder, of)
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
