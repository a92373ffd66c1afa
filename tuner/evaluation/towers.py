"""Vision towers of transformers by Hub id or folder: CLIP, SigLIP, DINO, DINOv2, ViT, ResNet, ConvNeXt.

Safetensors alone: no pickle is read and no code of a repository is run. Pictures are prepared by transformers' Pillow
processors, so torchvision is not needed, and not used where it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RequestError
from .features import images

PROJECTED = ("clip", "siglip")  # how a model type is read: its embedding of pictures, in the space of its texts
CLASS_TOKEN = ("vit", "deit", "dinov2", "dinov2_with_registers")  # the first token after the last norm
POOLED = ("resnet", "convnext", "convnextv2")  # the mean over places
UNUSED = "pooler."  # DINO's files lack the pooler that transformers gives a ViT; nothing here reads it


class TowerFeatures:
    """A vision tower's features, as it gives them: not normalised."""

    def __init__(self, name: str, model: Any, processor: Any) -> None:
        self.name, self.model, self.processor = name, model, processor

    @classmethod
    def load(cls, source: str, device: torch.device | str = "cpu") -> TowerFeatures:
        """A tower by Hub id or folder. Raises RequestError: it is not there, of an unknown kind, or not whole."""
        import transformers

        def load(options: dict[str, Any]) -> Any:
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
            known = (*PROJECTED, *CLASS_TOKEN, *POOLED)
            if config.model_type not in known:
                raise RequestError(f"{source} is of the kind {config.model_type}; known here are {', '.join(known)}.")
            kind = transformers.AutoModelForImageClassification if _classifies(config) else transformers.AutoModel
            return kind.from_pretrained(source, **options)

        model = pretrained(source, load)
        name = Path(source).resolve().name if Path(source).is_dir() else source.split("/")[-1]
        return cls(name, model.to(device), processor(source))

    def __call__(self, pictures: Tensor) -> Tensor:
        kind, tower, prepared = self.model.config.model_type, self.model.base_model, self._prepared(pictures)
        if kind in PROJECTED:
            return tower.get_image_features(pixel_values=prepared).pooler_output
        seen = tower(pixel_values=prepared)
        return seen.last_hidden_state[:, 0] if kind in CLASS_TOKEN else seen.pooler_output.flatten(1)

    def probabilities(self, pictures: Tensor) -> Tensor:
        """Of the classes that it was trained to tell."""
        if not _classifies(self.model.config):
            raise RequestError(f"{self.name} knows no classes; take a model for image classification, or the judge.")
        return self.model(pixel_values=self._prepared(pictures)).logits.softmax(dim=1)

    def _prepared(self, pictures: Tensor) -> Tensor:
        return self.processor(images=images(pictures), return_tensors="pt")["pixel_values"].to(self.model.device)


def pretrained(source: str, load: Callable[[dict[str, Any]], Any]) -> Any:
    """A whole transformers model, frozen, in float32, as `load` gives it when handed from_pretrained's options.

    Raises:
        RequestError: it is not there, cannot be read, or lacks weights.
    """
    folder = Path(source)
    if not folder.is_dir() and (source.count("/") != 1 or source.startswith((".", "/", "~"))):
        raise RequestError(f"{source}: there is no such folder, and this is no Hub id (OWNER/NAME) of a model.")
    options = {
        "use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32, "output_loading_info": True,
    }  # fmt: skip
    try:
        model, info = load(options)
    except RequestError:
        raise
    except Exception as error:  # no network, no such repository, no safetensors, code of its own, sizes that differ
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise RequestError(f"{source} could not be loaded as a model in safetensors: {reason}.") from error
    missing = sorted(key for key in info["missing_keys"] if UNUSED not in key)
    if missing:
        raise RequestError(f"{source} is not whole: it lacks `{missing[0]}` and {len(missing) - 1} more weights.")
    return model.eval().requires_grad_(False)


def processor(source: str) -> Any:
    """How a model wants its pictures (preprocessor_config.json), by Pillow. RequestError where it does not say."""
    import transformers

    try:
        return transformers.AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise RequestError(
            f"{source} does not say how to prepare pictures (preprocessor_config.json): {reason}."
        ) from error


def _classifies(config: Any) -> bool:
    heads = config.architectures or ()
    return config.model_type not in PROJECTED and any(head.endswith("ForImageClassification") for head in heads)
