"""Loading a base: a diffusers folder, a Hub id, or a single .safetensors checkpoint. Nothing is unpickled, and no code
that comes with a model is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import RequestError
from .checkpoint import load_checkpoint
from .family import SD1, SDXL, Family
from .latent_diffusion import BUNDLED, LatentDiffusion
from .quantize import quantize_linear

# Pipelines whose parts are those of a known family: what sampling they do is of no matter here.
PIPELINES = {
    "StableDiffusionPipeline": SD1, "StableDiffusionImg2ImgPipeline": SD1, "StableDiffusionXLPipeline": SDXL,
    "StableDiffusionXLImg2ImgPipeline": SDXL,
}  # fmt: skip


def load(base: str, quantize: str = "none") -> LatentDiffusion:
    """See `LatentDiffusion.load`."""
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    source = str(BUNDLED.get(base, base))
    if Path(source).is_file():
        parts, scheduler, extras = load_checkpoint(Path(source))
    else:
        parts, scheduler, extras = _folder(base, source)
    _check(base, parts)
    quantize_linear(parts["unet"], quantize)
    return LatentDiffusion(parts, scheduler, base, extras.get("force_zeros_for_empty_prompt", False))


def _folder(base: str, source: str) -> tuple[dict[str, Any], dict[str, Any], Mapping[str, Any]]:
    """The parts of a diffusers folder or of a Hub repository, the scheduler's configuration, the pipeline's own."""
    import diffusers

    family = _family(base, _index(base, source))
    plain = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    options: dict[str, Any] = plain if family is SD1 else {"feature_extractor": None, "image_encoder": None}
    options |= {"use_safetensors": True, "dtype": torch.float32}
    kind = getattr(diffusers, family.pipeline)
    try:
        try:
            pipe = kind.from_pretrained(source, **options)
        except OSError:  # many repositories and folders hold halved weights alone
            pipe = kind.from_pretrained(source, variant="fp16", **options)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise RequestError(f"--base {base} could not be loaded: {_reason(error)}.") from error
    names = ("unet", "vae", *family.encoders, *family.tokenizers)
    return {name: getattr(pipe, name) for name in names}, dict(pipe.scheduler.config), pipe.config


def _index(base: str, source: str) -> Mapping[str, Any]:
    """The model_index.json of a folder or of a Hub repository."""
    from diffusers import DiffusionPipeline

    folder = Path(source)
    if folder.exists():
        if not (folder / "model_index.json").is_file():
            raise RequestError(f"--base {base} is not a diffusers folder: it has no model_index.json.")
        _no_code(base, folder)
        try:
            return json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise RequestError(f"--base {base}: its model_index.json cannot be read: {error}.") from None
    if base in BUNDLED or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise RequestError(
            f"--base {base}: there is no such file or folder; name a diffusers folder, a .safetensors checkpoint, a "
            "Hub id or `emoji`."
        )
    try:
        return DiffusionPipeline.load_config(source)
    except (OSError, ValueError) as error:
        raise RequestError(f"--base {base} could not be fetched: {_reason(error)}.") from error


def _family(base: str, index: Mapping[str, Any]) -> Family:
    """The family whose pipeline the index names; SD 1.x stands for SD 2.x too, which has the same.

    Raises:
        RequestError: it is another kind of model, or one of its parts is code of its own.
    """
    name = index.get("_class_name")
    for part, said in index.items():
        known = not isinstance(said, list) or (len(said) == 2 and said[0] in _LIBRARIES)
        if not known:
            raise RequestError(f"--base {base}: its part `{part}` needs code of its own ({said}), which is not run.")
    if name not in PIPELINES:
        raise RequestError(f"--base {base} is a {name}; Stable Diffusion 1.x, 2.x and SDXL are known here.")
    family = PIPELINES[name]
    if any((index.get(part) or [None])[0] is None for part in (*family.encoders, "unet", "vae")):
        raise RequestError(f"--base {base} lacks a part that a {name} needs; an SDXL refiner cannot be a base.")
    return family


_LIBRARIES = ("diffusers", "transformers", "stable_diffusion", "onnx", None)  # where parts may come from


def _no_code(base: str, folder: Path) -> None:
    """Refuse a folder with a part whose configuration asks for code of its own."""
    for file in sorted(folder.glob("*/config.json")):
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RequestError(f"--base {base}: {file} cannot be read: {error}.") from None
        if isinstance(config, dict) and ("auto_map" in config or "custom_pipelines" in config):
            raise RequestError(f"--base {base}: its part `{file.parent.name}` needs code of its own, which is not run.")


def _check(base: str, parts: Mapping[str, Any]) -> None:
    """Refuse a U-Net that wants more than a latent, and weights that are missing or not finite."""
    unet, vae = parts["unet"], parts["vae"]
    if unet.config.in_channels != vae.config.latent_channels:
        raise RequestError(
            f"--base {base} takes {unet.config.in_channels} channels, not a latent's {vae.config.latent_channels}; "
            "models for inpainting or depth cannot be a base."
        )
    for name, part in parts.items():
        for key, tensor in part.state_dict().items() if isinstance(part, torch.nn.Module) else ():
            if tensor.is_meta:
                raise RequestError(f"--base {base} is not whole: it lacks `{name}.{key}`.")
            if tensor.is_floating_point() and not tensor.sum().isfinite():
                raise RequestError(f"--base {base} holds values that are not finite, in `{name}.{key}`.")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")
