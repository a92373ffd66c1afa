"""Single-file checkpoints in Stable Diffusion's original layout, read by diffusers' own loader without a network.

diffusers wants the configuration of the parts beside the weights; those of the published models are in `configs/`, and
CLIP's tokenizer is made from its merges there.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..adapters.container import read_header
from ..errors import RequestError
from .family import FAMILIES, SD2, Family
from .tokens import END, START

CONFIGS = Path(__file__).with_name("configs")
MERGES = CONFIGS / "clip_merges.txt.gz"
# A tensor that only a family's checkpoints have.
_SIGNS = {
    "sdxl": "conditioner.embedders.1.model.transformer.resblocks.0.ln_1.weight",
    "sd2": "cond_stage_model.model.transformer.resblocks.0.ln_1.weight",
    "sd1": "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
}
_UNET, _VAE = "model.diffusion_model.", "first_stage_model."


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any], Mapping[str, Any]]:
    """The parts of a checkpoint by name, the scheduler's configuration and the pipeline's own.

    Raises:
        RequestError: it is not a whole safetensors file, or not a checkpoint of a family that is known here.
    """
    import diffusers

    header = read_header(path)
    names, metadata = set(header.entries), header.metadata
    family = _family(path, names)
    tokenizers = {name: clip_tokenizer(first=name == "tokenizer" and family is not SD2) for name in family.tokenizers}
    options: dict[str, Any] = {"safety_checker": None} if len(family.encoders) == 1 else {}
    try:
        pipe = getattr(diffusers, family.pipeline).from_single_file(
            str(path), config=str(CONFIGS / family.name), local_files_only=True, dtype=torch.float32,
            **tokenizers, **options,
        )  # fmt: skip
    except Exception as error:  # whatever diffusers raises for weights that do not fit
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise RequestError(f"--base {path} could not be loaded as {family.title}: {reason}.") from error
    parts = {name: getattr(pipe, name) for name in ("unet", "vae", *family.encoders)} | tokenizers
    told = _prediction(path, names, metadata, family, parts["unet"])
    return parts, {**pipe.scheduler.config, **told}, pipe.config


def _family(path: Path, names: set[str]) -> Family:
    found = next((FAMILIES[name] for name, sign in _SIGNS.items() if sign in names), None)
    if found and all(any(name.startswith(prefix) for name in names) for prefix in (_UNET, _VAE)):
        return found
    if any("lora_" in name or name.startswith(("hada_", "lokr_")) for name in names):
        raise RequestError(f"--base {path} is an adapter, not a model; give the model that it is for.")
    raise RequestError(
        f"--base {path} is not a whole checkpoint of Stable Diffusion 1.x, 2.x or SDXL: it needs a U-Net "
        f"(`{_UNET}`), an autoencoder (`{_VAE}`) and a text encoder."
    )


def _prediction(
    path: Path, names: set[str], metadata: Mapping[str, str], family: Family, unet: torch.nn.Module
) -> dict[str, Any]:
    """What the U-Net predicts, where it is not what the family usually does: the weights do not tell.

    Asked, in this order: the ModelSpec's word in the header; the marks that SDXL checkpoints of v-prediction carry
    (tensors named `v_pred` and `ztsnr`); the .yaml file that people keep beside a checkpoint; for SD 2.x the U-Net
    itself.
    """
    said = metadata.get("modelspec.prediction_type", "")
    yaml = path.with_suffix(".yaml")
    if said:
        v = said.startswith("v")
    elif "v_pred" in names:
        v = True
    elif yaml.is_file():
        v = 'parameterization: "v"' in yaml.read_text(encoding="utf-8", errors="replace")
    elif family is SD2:
        v = _answers_v(unet)
    else:
        v = False
    told: dict[str, Any] = {"prediction_type": "v_prediction" if v else "epsilon"}
    return told | ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in names else {})


@torch.no_grad()
def _answers_v(unet: Any) -> bool:
    """Whether a U-Net of SD 2.x predicts v: of all noise, it then answers the negated picture and not the noise.

    The test and its threshold are those of stable-diffusion-webui (sd_models_config.py).
    """
    noise = torch.full((1, unet.config.in_channels, 8, 8), 0.5)
    told = torch.zeros(1, 2, unet.config.cross_attention_dim)
    return bool((unet(noise, torch.tensor([999]), told).sample - noise).mean() < -1)


@cache
def _clip_words() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary and merges: 256 bytes, the same at a word's end, the merges, and two marks; 49,408 in all."""
    from tokenizers.pre_tokenizers import ByteLevel

    lines = gzip.decompress(MERGES.read_bytes()).decode().splitlines()
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    order = {ord(symbol): symbol for symbol in ByteLevel.alphabet()}
    symbols = [order[code] for code in sorted(order)]
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *(left + right for left, right in merges), START, END]
    return {token: number for number, token in enumerate(tokens)}, merges


def clip_tokenizer(first: bool = True) -> Any:
    """CLIP's tokenizer, of 77 tokens. OpenAI's encoder pads with the end mark, OpenCLIP's (`first` false) with `!`."""
    from transformers import CLIPTokenizer

    vocabulary, merges = _clip_words()
    return CLIPTokenizer(vocabulary, merges, model_max_length=77, pad_token=END if first else "!")
