"""Models that grow: new words, more channels of latents. What they knew they still know, and training goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .latent_diffusion import LatentDiffusion
from .tokens import tokenizer

LITTLE_NOISE = -6.0  # the logarithm of the variance that new channels are encoded with


def reword(model: LatentDiffusion, words: Iterable[str], seed: int = 0) -> None:
    """Give a model a tokenizer made from `words` (see `tokens.tokenizer`).

    Tokens that it had keep their embeddings, whatever their numbers are now; those of new ones are drawn from `seed`.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    old, config = model.tokenizer.get_vocab(), model.text_encoder.config
    tokens = tokenizer(words, config.max_position_embeddings)
    named = {f"{kind}_token_id": getattr(tokens, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = CLIPTextModel(CLIPTextConfig.from_dict(config.to_dict() | named | {"vocab_size": len(tokens)}))
    weights = dict(model.text_encoder.state_dict())
    (table,) = (name for name in weights if name.endswith("token_embedding.weight"))
    rows = encoder.state_dict()[table].clone()
    rows *= weights[table].std() / rows.std()
    for token, row in tokens.get_vocab().items():
        if token in old:
            rows[row] = weights[table][old[token]]
    encoder.load_state_dict(weights | {table: rows})
    model.tokenizer, model.text_encoder = tokens, encoder.to(model.device)


@torch.no_grad()
def widen(model: LatentDiffusion, channels: int, seed: int = 0) -> None:
    """Give a model's latents more channels, C -> `channels`.

    At first they change nothing: decoder and U-Net read them with weights of zero, and the U-Net predicts zero for
    them. What the encoder puts into them is drawn from `seed`.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    old = torch.arange(model.vae.config.latent_channels)
    new = torch.arange(len(old), channels)
    moments = torch.cat([old, channels + old])  # means, then logarithms of variances
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL.from_config(model.vae.config, latent_channels=channels)
        unet = UNet2DConditionModel.from_config(model.unet.config, in_channels=channels, out_channels=channels)
    drawn = vae.encoder.conv_out.weight[new].clone()
    _copy(vae, model.vae, {
        "encoder.conv_out": (moments, None), "quant_conv": (moments, moments),
        "post_quant_conv": (old, old), "decoder.conv_in": (None, old),
    })  # fmt: skip
    _copy(unet, model.unet, {"conv_in": (None, old), "conv_out": (old, None)})
    vae.encoder.conv_out.weight[new] = drawn
    vae.encoder.conv_out.bias[channels + new] = LITTLE_NOISE
    for layer, own in ((vae.quant_conv, torch.cat([new, channels + new])), (vae.post_quant_conv, new)):
        layer.weight[own, own] = 1.0  # (out, in, 1, 1)
    model.vae, model.unet = vae.to(model.device), unet.to(model.device)


Rows = Tensor | None  # where the old ones are among the new; None: there are as many


def _copy(new: nn.Module, old: nn.Module, grown: Mapping[str, tuple[Rows, Rows]]) -> None:
    """Copy weights into a network of which some layers have more outputs or inputs; the rest of those is zero."""
    weights: dict[str, Any] = new.state_dict()
    for name, value in old.state_dict().items():
        outputs, inputs = grown.get(name.rpartition(".")[0], (None, None))
        for axis, places in enumerate((outputs, inputs)):
            if places is not None and axis < value.ndim:
                size = weights[name].shape[axis]
                value = torch.zeros(*value.shape[:axis], size, *value.shape[axis + 1 :]).index_copy(axis, places, value)
        weights[name] = value
    new.load_state_dict(weights)
