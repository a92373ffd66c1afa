"""What data must know of a base, from its configuration and its tokenizer: no weights are read, no torch needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MODELS = Path(__file__).parents[1]
BUNDLED = MODELS / "bundled" / "base"
CONFIGS = MODELS / "models" / "configs"
# The beginning of a tensor's name that only a family's single-file checkpoints have; others are SD 1.x.
SIGNS = {"sdxl": "conditioner.embedders.1.", "sd2": "cond_stage_model.model."}


@dataclass(frozen=True)
class Reader:
    """How a base reads captions: its tokenizer, and the most tokens that it takes, start and end included."""

    tokenizer: Tokenizer
    length: int

    @classmethod
    def of(cls, tokenizer: Any) -> Reader:
        """That of a tokenizer of transformers, which keeps what its last call has set."""
        from tokenizers import Tokenizer

        made = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        made.no_truncation()
        made.no_padding()
        return cls(made, tokenizer.model_max_length)

    def cut(self, texts: Iterable[str]) -> dict[str, str]:
        """The texts that are too long, each with the end of it that is cut away."""
        different = list(dict.fromkeys(texts))
        found = {}
        for text, read in zip(different, self.tokenizer.encode_batch(different), strict=True):
            own = [place for place, special in zip(read.offsets, read.special_tokens_mask, strict=True) if not special]
            room = self.length - (len(read.offsets) - len(own))
            if len(own) > room:
                found[text] = text[own[room][0] :]
        return found


@dataclass(frozen=True)
class Glance:
    """A base's training resolution, what sides must be multiples of, and how it reads captions."""

    resolution: int
    unit: int
    reader: Reader


def glance(base: str) -> Glance:
    """Look at a base: `emoji`, a diffusers folder, a single .safetensors checkpoint, or a Hub id.

    Raises:
        RequestError: there is no such base, or its configuration cannot be read.
    """
    folder = BUNDLED if base == "emoji" else Path(base)
    checkpoint = None
    if folder.is_file():
        checkpoint, folder = folder, CONFIGS / _family(folder)
    elif not folder.is_dir() and base.count("/") != 1:
        raise RequestError(f"--base {base}: there is no such file or folder; name a diffusers folder or a Hub id.")
    find = (lambda name: folder / name) if folder.is_dir() else (lambda name: _fetched(base, name))
    try:
        unet, vae = (json.loads(find(f"{part}/config.json").read_text(encoding="utf-8")) for part in ("unet", "vae"))
        scale = 2 ** (len(vae["block_out_channels"]) - 1)
        unit = scale * 2 ** (len(unet["block_out_channels"]) - 1)
        reader = _checkpoint_reader() if checkpoint else _reader(find)
        return Glance(int(unet["sample_size"]) * scale, unit, reader)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RequestError(f"--base {base}: its configuration cannot be read ({reason}).") from error


def _family(checkpoint: Path) -> str:
    """The family of a single-file checkpoint, by the names in its header."""
    try:
        with open(checkpoint, "rb") as file:
            names = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), 2**27)))
    except (OSError, ValueError):
        raise RequestError(f"--base {checkpoint} is not a whole safetensors file.") from None
    return next((family for family, sign in SIGNS.items() if any(name.startswith(sign) for name in names)), "sd1")


def _fetched(base: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(base, name))
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def _reader(find: Callable[[str], Path]) -> Reader:
    from tokenizers import Tokenizer

    length = json.loads(find("tokenizer/tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"]
    try:
        file = find("tokenizer/tokenizer.json")
        made = Tokenizer.from_file(str(file)) if file.is_file() else None
    except OSError:  # the Hub has none
        made = None
    if made is None:
        from transformers import CLIPTokenizer

        find("tokenizer/merges.txt")
        return Reader.of(CLIPTokenizer.from_pretrained(str(find("tokenizer/vocab.json").parent)))
    made.no_truncation()
    made.no_padding()
    return Reader(made, length)


def _checkpoint_reader() -> Reader:
    from ..models.checkpoint import clip_tokenizer

    return Reader.of(clip_tokenizer())
