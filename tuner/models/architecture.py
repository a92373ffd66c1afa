"""New models from sizes: the Stable Diffusion 1.x architecture at any width, and a tokenizer made from a list of words.

Everything is diffusers' and transformers' own: AutoencoderKL, UNet2DConditionModel, CLIPTextModel, CLIPTokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..files import replacing
from .latent_diffusion import LatentDiffusion
from .tokens import tokenizer

SCHEDULE = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "epsilon",
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """The widths of a new model. The defaults are those of the bundled base.

    Attributes:
        resolution: the pictures' side in pixels.
        vae: channels of the autoencoder's levels, from full resolution down.
        latent_channels: channels of a latent.
        unet: channels of the U-Net's levels.
        attention: which of those levels have cross-attention.
        layers: residual blocks a level.
        heads: attention heads.
        text_width, text_layers, text_length: the text encoder's width, depth and longest prompt in tokens.
        groups: groups of the normalisations.
    """

    resolution: int = 64
    vae: tuple[int, ...] = (32, 64, 64)
    latent_channels: int = 4
    unet: tuple[int, ...] = (64, 96, 160)
    attention: tuple[bool, ...] = (False, True, True)
    layers: int = 1
    heads: int = 4
    text_width: int = 128
    text_layers: int = 2
    text_length: int = 24
    groups: int = 8


def create(sizes: Sizes, words: Iterable[str], seed: int = 0) -> LatentDiffusion:
    """A new model with random weights, drawn from `seed`."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokens = tokenizer(words, sizes.text_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        levels = len(sizes.vae)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=sizes.vae, layers_per_block=1, latent_channels=sizes.latent_channels,
            norm_num_groups=sizes.groups, sample_size=sizes.resolution, mid_block_add_attention=False,
        )  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=sizes.resolution // 2 ** (levels - 1), in_channels=sizes.latent_channels,
            out_channels=sizes.latent_channels, block_out_channels=sizes.unet, layers_per_block=sizes.layers,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in sizes.attention),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in sizes.attention[::-1]),
            cross_attention_dim=sizes.text_width, attention_head_dim=sizes.heads, norm_num_groups=sizes.groups,
        )  # fmt: skip
        text = CLIPTextModel(CLIPTextConfig(
            vocab_size=len(tokens), hidden_size=sizes.text_width, intermediate_size=4 * sizes.text_width,
            projection_dim=sizes.text_width, num_hidden_layers=sizes.text_layers, num_attention_heads=4,
            max_position_embeddings=sizes.text_length, hidden_act="quick_gelu", bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id,
        ))  # fmt: skip
    return LatentDiffusion(unet, vae, text, tokens, SCHEDULE, identity="new")


def save(model: LatentDiffusion, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a diffusers folder, atomically. The model itself is left as it is.

    The text encoder's config names float32: transformers would otherwise load it in its file's precision, diffusers
    the U-Net in fp32, and the two would not meet. vocab.json and merges.txt are written for older loaders.
    """
    import copy

    pipe = model.pipeline("ddim")
    parts = {name: copy.deepcopy(getattr(model, name)).to("cpu", dtype) for name in ("unet", "vae", "text_encoder")}
    with replacing(folder) as part:
        type(pipe)(
            **parts, tokenizer=model.tokenizer, scheduler=pipe.scheduler, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(part, safe_serialization=True)  # fmt: skip
        model.tokenizer.backend_tokenizer.model.save(str(part / "tokenizer"))
        config = part / "text_encoder" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
