"""New models from sizes: the Stable Diffusion architectures at any width, and a tokenizer made from a list of words.

Everything is diffusers' and transformers' own: AutoencoderKL, UNet2DConditionModel, CLIPTextModel, CLIPTokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..config import write_toml
from ..files import replacing
from .family import FAMILIES, SDXL
from .latent_diffusion import LatentDiffusion
from .tokens import tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from ..sampling.manner import Manner

SCHEDULE = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "epsilon",
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """The widths of a new model. The defaults are those of the bundled base.

    Attributes:
        family: `sd1`, `sd2` or `sdxl`: which details of the architecture it has.
        prediction: what the U-Net predicts: `epsilon`, `v_prediction` or `sample`.
        resolution: the pictures' side in pixels.
        vae: channels of the autoencoder's levels, from full resolution down.
        vae_attention: whether its middle has attention, as Stable Diffusion's own has.
        latent_channels: channels of a latent.
        unet: channels of the U-Net's levels.
        attention: which of those levels have cross-attention.
        transformers: transformer blocks to an attention, level by level; one each by default.
        layers: residual blocks a level.
        heads: attention heads.
        text_width, text_layers, text_length: the (first) text encoder's width, depth and longest prompt in tokens.
        groups: groups of the normalisations.
    """

    family: str = "sd1"
    prediction: str = "epsilon"
    resolution: int = 64
    vae: tuple[int, ...] = (32, 64, 64)
    vae_attention: bool = False
    latent_channels: int = 4
    unet: tuple[int, ...] = (64, 96, 160)
    attention: tuple[bool, ...] = (False, True, True)
    transformers: tuple[int, ...] = ()
    layers: int = 1
    heads: int = 4
    text_width: int = 128
    text_layers: int = 2
    text_length: int = 24
    groups: int = 8


def create(sizes: Sizes, words: Iterable[str], seed: int = 0) -> LatentDiffusion:
    """A new model with random weights, drawn from `seed`."""
    family = FAMILIES[sizes.family]
    tokens = tokenizer(words, sizes.text_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts: dict[str, Any] = {"vae": _vae(sizes), "unet": _unet(sizes)}
        for number, name in enumerate(family.encoders):
            parts[name] = _encoder(sizes, tokens, second=number > 0)
    parts |= dict.fromkeys(family.tokenizers, tokens)
    schedule = SCHEDULE | {"prediction_type": sizes.prediction}
    return LatentDiffusion(parts, schedule, identity="new", zero_empty=family is SDXL)


def published(name: str, device: torch.device | str = "cpu", seed: int = 0) -> LatentDiffusion:
    """A published architecture in full size with random weights, drawn from `seed`: no picture comes of it.

    Args:
        name: `sd1` (Stable Diffusion 1.5), `sd2` (2.1, v-prediction) or `sdxl`.
        device: on `meta` there are shapes and no weights.
    """
    import diffusers
    import transformers

    from .checkpoint import CONFIGS, clip_tokenizer

    family, configs = FAMILIES[name], CONFIGS / name
    index = json.loads((configs / "model_index.json").read_text(encoding="utf-8"))
    parts: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        for part in ("unet", "vae"):
            kind = getattr(diffusers, index[part][1])
            parts[part] = kind.from_config(kind.load_config(configs / part))
        for part in family.encoders:
            kind = getattr(transformers, index[part][1])
            parts[part] = kind(transformers.CLIPTextConfig.from_pretrained(configs / part))
    for part in family.tokenizers:
        parts[part] = clip_tokenizer(first=part == "tokenizer" and name != "sd2")
    schedule = json.loads((configs / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    return LatentDiffusion(parts, schedule, f"random {family.title}", bool(index.get("force_zeros_for_empty_prompt")))


def _vae(sizes: Sizes) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    levels = len(sizes.vae)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=sizes.vae, layers_per_block=1, latent_channels=sizes.latent_channels,
        norm_num_groups=sizes.groups, sample_size=sizes.resolution, mid_block_add_attention=sizes.vae_attention,
    )  # fmt: skip


def _unet(sizes: Sizes) -> UNet2DConditionModel:
    """SD 2.x and SDXL have linear projections around their transformers; SDXL is told the pooled text and six sizes."""
    from diffusers import UNet2DConditionModel

    options: dict[str, Any] = {"use_linear_projection": sizes.family != "sd1"}
    told = sizes.text_width
    if sizes.family == "sdxl":
        told, pooled, width = 3 * sizes.text_width, 2 * sizes.text_width, sizes.text_width // 2
        options |= {
            "addition_embed_type": "text_time", "addition_time_embed_dim": width,
            "projection_class_embeddings_input_dim": pooled + 6 * width,
        }  # fmt: skip
    return UNet2DConditionModel(
        sample_size=sizes.resolution // 2 ** (len(sizes.vae) - 1), in_channels=sizes.latent_channels,
        out_channels=sizes.latent_channels, block_out_channels=sizes.unet, layers_per_block=sizes.layers,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in sizes.attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in sizes.attention[::-1]),
        cross_attention_dim=told, attention_head_dim=sizes.heads, norm_num_groups=sizes.groups,
        transformer_layers_per_block=sizes.transformers or 1, **options,
    )  # fmt: skip


def _encoder(sizes: Sizes, tokens: CLIPTokenizer, second: bool) -> CLIPTextModel:
    """OpenAI's text encoder for SD 1.x and SDXL's first, OpenCLIP's for SD 2.x and SDXL's second, twice as wide."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    width = sizes.text_width * (2 if second else 1)
    return (CLIPTextModelWithProjection if second else CLIPTextModel)(CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=width, intermediate_size=4 * width, projection_dim=width,
        num_hidden_layers=sizes.text_layers, num_attention_heads=4, max_position_embeddings=sizes.text_length,
        hidden_act="gelu" if second or sizes.family == "sd2" else "quick_gelu",
        bos_token_id=tokens.bos_token_id, eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id,
    ))  # fmt: skip


def save(
    model: LatentDiffusion, folder: Path, dtype: torch.dtype = torch.float32, manner: Manner | None = None
) -> None:
    """Write a diffusers folder, atomically. The model itself is left as it is.

    The text encoder's config names float32: transformers would otherwise load it in its file's precision, diffusers
    the U-Net in fp32, and the two would not meet. vocab.json and merges.txt are written for older loaders. Nothing says
    from which folder of this machine the parts once came. `manner` says how it wants to be drawn with.
    """
    import copy

    pipe = manner.pipeline(model) if manner else model.pipeline("ddim")
    pipe.register_modules(**{name: copy.deepcopy(part).to("cpu", dtype) for name, part in model.networks.items()})
    with replacing(folder) as part:
        pipe.save_pretrained(part, safe_serialization=True)
        for name, tokens in zip(model.family.tokenizers, model.tokenizers, strict=True):
            tokens.backend_tokenizer.model.save(str(part / name))
        for name in model.networks:
            config = part / name / "config.json"
            said = json.loads(config.read_text()) | ({"dtype": "float32"} if name in model.family.encoders else {})
            said.pop("_name_or_path", None)
            config.write_text(json.dumps(said, indent=2) + "\n")
        if manner:
            (part / "training.toml").write_text(f"[generate]\n{write_toml(manner.told)}")
