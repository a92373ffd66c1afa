"""Files of peft's `save_pretrained`: a network's paths behind `base_model.model.`, and a configuration beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RequestError
from .roles import PEFT

CONFIG = "adapter_config.json"
_NETWORKS = {
    "UNet2DConditionModel": "unet", "CLIPTextModel": "text_encoder", "CLIPTextModelWithProjection": "text_encoder_2",
}  # fmt: skip
_SETTINGS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")


def adopted(path: Path, keys: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The tensors' names as diffusers spells them -> as the file does; and the header that diffusers' file would have.

    Raises:
        RequestError: its configuration is not beside it, is not LoRA's, or is of no network that is known here.
    """
    config = _config(path)
    network = _NETWORKS.get((config.get("auto_mapping") or {}).get("base_model_class", ""), "")
    if not network or config.get("peft_type", "LORA") != "LORA":
        raise RequestError(
            f"{path} is peft's {config.get('peft_type')} of a network that is not known here; a LoRA of a U-Net or of "
            "CLIP's text encoders is."
        )
    names = {f"{network}.{key.removeprefix(PEFT)}": key for key in keys}
    settings = {f"{network}.{name}": config[name] for name in _SETTINGS if name in config}
    return names, {"lora_adapter_metadata": json.dumps(settings)}


def _config(path: Path) -> dict[str, Any]:
    file = path.with_name(CONFIG)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RequestError(
            f"{path} is a file of peft's, whose alpha is in {CONFIG}; put that file beside it, as peft wrote it."
        ) from None
    return found if isinstance(found, dict) else {}
