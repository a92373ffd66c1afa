"""Whether pictures show what words or example pictures say: CLIP score, CLIP accuracy, likeness to a subject.

All give a value for each picture; `statistics.mean` and `statistics.share` make figures with intervals of them, with
the prompts as groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..errors import RequestError
from .distances import pair
from .features import collect
from .towers import TowerFeatures, pretrained, processor

SCALE = 100.0
BYTES = 256  # tokens that any byte-level vocabulary has


class ClipText:
    """A CLIP model's two towers. Texts are taken as they are, without a prefix, and cut at the model's length.

    Args:
        name: the model's Hub id or folder, for figures: scores of different models cannot be compared.
        model, tokenizer, processor: transformers' own.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, processor: Any) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.processor, self.features = processor, TowerFeatures(name, model, processor)

    @classmethod
    def load(cls, source: str, device: torch.device | str = "cpu") -> ClipText:
        """A CLIP by Hub id (`openai/clip-vit-large-patch14`) or folder, with its tokenizer.

        Raises:
            RequestError: it is not there, is no CLIP, or is not whole.
        """
        import transformers

        def load(options: dict[str, Any]) -> Any:
            kind = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
            if kind != "clip":
                raise RequestError(f"{source} is of the kind {kind}; texts are compared with pictures by a CLIP model.")
            return transformers.CLIPModel.from_pretrained(source, **options)

        model = pretrained(source, load)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise RequestError(f"The tokenizer of {source} could not be loaded: {reason}.") from error
        if not BYTES < len(tokenizer) <= model.config.text_config.vocab_size:  # without its files, an empty one is made
            raise RequestError(f"The tokenizer of {source} is missing or of another model; add its tokenizer.json.")
        return cls(source, model.to(device), tokenizer, processor(source))

    def cosines(self, pictures: Sequence[Image.Image], texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """The cosine of each picture with the text of its place, (N,).

        Raises:
            RequestError: there are no pictures, or not a text for each.
        """
        _matched(pictures, texts)
        return self._cosines(_unit(collect(self.features, pictures, batch_size)), texts, batch_size)

    def scores(self, pictures: Sequence[Image.Image], texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """CLIP score of each picture, (N,): 100 max(cos, 0), from 0 to 100.

        Hessel et al. 2021 (arXiv:2104.08718, section 3) scale by 2.5 and put "A photo depicts" before the text; the
        scale of 100 without a prefix is what papers on generation print.
        """
        return SCALE * self.cosines(pictures, texts, batch_size).clip(min=0)

    def prefers(
        self, pictures: Sequence[Image.Image], targets: Sequence[str], anchors: Sequence[str], batch_size: int = 32
    ) -> np.ndarray:
        """CLIP accuracy of each picture, (N,) booleans: its target text beats its anchor text.

        Kumari et al. 2023 (arXiv:2303.13516, section 4): the lower the more surely the target is gone. A tie is no
        victory.
        """
        _matched(pictures, targets)
        _matched(pictures, anchors)
        seen = _unit(collect(self.features, pictures, batch_size))
        return self._cosines(seen, targets, batch_size) > self._cosines(seen, anchors, batch_size)

    def _cosines(self, seen: np.ndarray, texts: Sequence[str], batch_size: int) -> np.ndarray:
        return (seen * _unit(self._read(texts, batch_size))).sum(axis=1)

    @torch.no_grad()
    def _read(self, texts: Sequence[str], batch_size: int) -> np.ndarray:
        """The embedding of each text, (N, D); each different text is read once."""
        different = list(dict.fromkeys(texts))
        batches = [different[i : i + batch_size] for i in range(0, len(different), batch_size)]
        table = torch.cat([self._embedded(batch) for batch in batches]).double().cpu().numpy()
        return table[[different.index(text) for text in texts]]

    def _embedded(self, texts: Sequence[str]) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
        tokens = self.tokenizer(list(texts), **options).to(self.model.device)
        return self.model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output


def likeness(features: ArrayLike, references: ArrayLike) -> np.ndarray:
    """The mean cosine of each picture's features (N, D) with those of all references (R, D): (N,).

    Ruiz et al. 2023 (DreamBooth, arXiv:2208.12242, section 4): CLIP-I in CLIP's features, DINO in DINO's (ViT-S/16).

    Raises:
        RequestError: an empty set, features that are not finite, zero or not of one length.
    """
    ours, theirs = pair(features, references, least=1)
    return (_unit(ours) @ _unit(theirs).T).mean(axis=1)


def _unit(table: np.ndarray) -> np.ndarray:
    if not np.linalg.norm(table, axis=1).all():
        raise RequestError("A picture or a text has features of zero, which have no direction; check the network.")
    return functional.normalize(torch.from_numpy(table), dim=1).numpy()


def _matched(pictures: Sequence[Image.Image], texts: Sequence[str]) -> None:
    if not pictures or len(pictures) != len(texts):
        raise RequestError(
            f"{len(pictures)} pictures and {len(texts)} texts do not match; give one text for each picture."
        )
