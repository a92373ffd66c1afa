"""The families of Stable Diffusion that are known here, as data; what they compute is told by `LatentDiffusion`.

Podell et al. 2023 (arXiv:2307.01952) for SDXL; the names are the ModelSpec's (github.com/Stability-AI/ModelSpec) and
those of kohya's metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """What is the same in all models of a family.

    Attributes:
        name: `sd1`, `sd2` or `sdxl`; packaged configurations and naming tables go by it.
        title: what people call it.
        pipeline: diffusers' pipeline.
        encoders: the text encoders, as diffusers' pipeline names them; each has a `tokenizer` of the same ending.
        architectures: the ModelSpec's name, by prediction type.
        versions: kohya's `ss_base_model_version`, by prediction type.
        fits_fp16: whether its U-Net may be held in fp16: SD 2.x has attention that fp16 may not hold.
    """

    name: str
    title: str
    pipeline: str
    encoders: tuple[str, ...]
    architectures: dict[str, str]
    versions: dict[str, str]
    fits_fp16: bool = True

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """The tokenizers' names, encoder by encoder."""
        return tuple(name.replace("text_encoder", "tokenizer") for name in self.encoders)


def _same(name: str) -> dict[str, str]:
    return {"epsilon": name, "v_prediction": name, "sample": name}


SD1 = Family(
    "sd1", "Stable Diffusion 1.x", "StableDiffusionPipeline", ("text_encoder",), _same("stable-diffusion-v1"),
    _same("sd_v1"),
)  # fmt: skip
SD2 = Family(
    "sd2", "Stable Diffusion 2.x", "StableDiffusionPipeline", ("text_encoder",),
    _same("stable-diffusion-v2-512") | {"v_prediction": "stable-diffusion-v2-768-v"},
    _same("sd_v2") | {"v_prediction": "sd_v2_v"}, fits_fp16=False,
)  # fmt: skip
SDXL = Family(
    "sdxl", "Stable Diffusion XL", "StableDiffusionXLPipeline", ("text_encoder", "text_encoder_2"),
    _same("stable-diffusion-xl-v1-base"), _same("sdxl_base_v1-0"),
)  # fmt: skip
FAMILIES = {family.name: family for family in (SD1, SD2, SDXL)}


def family_of(pipe: Any) -> Family:
    """The family of a diffusers pipeline, or of what has parts of the same names.

    SDXL has a second text encoder. Of the other two, SD 2.x took OpenCLIP's encoder, whose activation is the exact GELU
    where OpenAI's has the quick one: this holds at any size.
    """
    if getattr(pipe, "text_encoder_2", None) is not None:
        return SDXL
    return SD1 if pipe.text_encoder.config.hidden_act == "quick_gelu" else SD2
