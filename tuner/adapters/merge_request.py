"""What `tuner merge` is asked for: its options, and whether they fit together. Nothing here needs torch."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..config import ELSEWHERE, Options, argument, common, option
from ..errors import RequestError

_OF_METHOD = {"density": ("ties", "dare"), "prompt": ("fusion",), "retain": ("fusion",)}
_TEMPLATES = (
    "{}", "a photo of {}", "a picture of {}", "{} in the background", "a close-up of {}", "a painting of {}",
)  # fmt: skip
_MOST = 12  # prompts made for an adapter


class RankOptions(Options):
    """How many ranks are kept."""

    panel: ClassVar[str] = "Rank"

    rank: int | None = common(None, "Keep so many ranks of each module.", "N", ge=1)
    energy: float | None = common(None, "Keep as many ranks as have this share of the energy.", "X", gt=0, le=1)

    def check_one(self) -> None:
        """Refuse both at once."""
        if self.rank is not None and self.energy is not None:
            raise RequestError("--rank and --energy both say how many ranks are kept; give one of them.")


class FusionOptions(Options):
    """What fusion looks at."""

    panel: ClassVar[str] = "Fusion"

    prompt: list[str] = option([], "A prompt that an adapter is to keep to; repeatable.", "FILE=TEXT")
    retain: list[str] = option([], "A prompt whose pictures are to stay as they are; repeatable.", "TEXT")


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic has a method `json` of old

    class Config(RankOptions, FusionOptions):
        """Options of `tuner merge`."""

        panel: ClassVar[str] = "Options"
        elsewhere: ClassVar[Mapping[str, str]] = {
            **ELSEWHERE, "save_to": "out", "new_rank": "rank", "combination_type": "method", "svd_rank": "rank",
            "output_model": "out", "into_base": "into", "precision": "save_precision",
        }  # fmt: skip

        file: list[str] = argument("The adapters, each with a weight where it is not 1.", "FILE[:WEIGHT]")
        out: str = common("", "The file that is written; with --into or of tokens it may be a folder.", "FILE")
        method: Literal["exact", "svd", "ties", "dare", "fusion"] = common("exact", "How they are merged.")
        into: str = common("", "Write them into this model: a folder, a checkpoint, a Hub id or emoji.", "BASE")
        base: str = common("", "The model that they are for, where the files do not suffice (DoRA, fusion).", "BASE")
        block: list[str] = common([], "Another weight for a part of the model; repeatable.", "FILE:BLOCK=W")
        rename: list[str] = option([], "Of tokens: another name for one; repeatable.", "OLD=NEW")
        density: float | None = option(None, "Of ties and dare: the share of numbers that stay [0.2; 0.5].", gt=0, le=1)
        seed: int = option(0, "Seed of what dare drops, and of the noise that fusion draws from.", ge=0)
        save_precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
            "auto", "Precision of the file; auto is the widest of the adapters', with --into the model's."
        )
        json: bool = common(False, "Print the figures as JSON.")  # type: ignore[assignment]
        quiet: bool = option(False, "No progress.")


def check(config: Config) -> None:
    """Refuse what does not fit together."""
    if not config.file:
        raise RequestError(
            "tuner merge takes one or more adapters: tuner merge A.safetensors:0.8 B.safetensors --out C"
        )
    config.check_one()
    for name, methods in _OF_METHOD.items():
        if getattr(config, name) and config.method not in methods:
            raise RequestError(
                f"--{name} is for --method {' and '.join(methods)}; --method {config.method} has no use for it."
            )
    sized = config.rank is not None or config.energy is not None
    if config.method == "svd" and not sized:
        raise RequestError("--method svd needs --rank N or --energy X: how much of the sum is to be kept.")
    if config.method == "exact" and sized:
        raise RequestError("--method exact keeps all ranks; --method svd keeps those of --rank or --energy.")
    if config.into and config.base:
        raise RequestError("--into names the model already; leave --base out.")


def check_out(out: str, folder: bool = False) -> None:
    """Refuse a place that is taken, or that says nothing of what is to be written."""
    if not out:
        raise RequestError("--out FILE is missing: it names the file that is written.")
    if Path(out).exists():
        raise RequestError(f"--out {out} is there already; name a new one.")
    if not folder and Path(out).suffix != ".safetensors":
        raise RequestError(f"--out {out} must end in .safetensors.")


def numbered(name: str, files: Sequence[str], paths: Sequence[Path], option: str) -> int:
    """Which of the adapters is meant: by its path, its file's name, or that without .safetensors."""
    found = [n for n, (text, path) in enumerate(zip(files, paths, strict=True))
             if name in (text, str(path), path.name, path.stem)]  # fmt: skip
    if len(found) != 1:
        names = ", ".join(path.name for path in paths)
        which = "is none" if not found else "are several"
        raise RequestError(f"{option}: {name} {which} of the adapters {names}; name one by its path.")
    return found[0]


def blocks(config: Config, paths: Sequence[Path]) -> tuple[list[dict[str, float]], frozenset[str]]:
    """For each adapter its blocks and their weights; and those blocks that came without a file, and are of all."""
    found: list[dict[str, float]] = [{} for _ in paths]
    shared: set[str] = set()
    for text in config.block:
        left, _, number = text.rpartition("=")
        name, _, block = left.rpartition(":")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not block or not math.isfinite(weight):
            raise RequestError(f"--block {text} must be FILE:BLOCK=WEIGHT, as in {paths[0].name}:down_blocks.1=0.5.")
        own = [numbered(name, config.file, paths, f"--block {text}")] if name else range(len(paths))
        shared |= set() if name else {block.strip(".")}
        for n in own:
            found[n][block.strip(".")] = weight
    return found, frozenset(shared)


def prompts(config: Config, paths: Sequence[Path], metadata: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """For each adapter the prompts that it is to keep to: those given, else made of what its header says.

    Raises:
        RequestError: an adapter has none.
    """
    found: list[list[str]] = [[] for _ in paths]
    for text in config.prompt:
        name, _, words = text.partition("=")
        if not words.strip():
            raise RequestError(f"--prompt {text} must be FILE=TEXT, as in {paths[0].name}='a photo of sks cat'.")
        found[numbered(name, config.file, paths, f"--prompt {text}")].append(words.strip())
    for own, path, said in zip(found, paths, metadata, strict=True):
        own += [] if own else made(said)
        if not own:
            raise RequestError(
                f"{path} does not say which words call it; give a prompt of it, or several, by "
                f"--prompt {path.name}='a photo of sks cat'."
            )
    return found


def made(metadata: Mapping[str, str]) -> list[str]:
    """Prompts made of an adapter's trigger words and, of kohya's files, of the captions and tags it was trained on."""
    trigger = next((metadata[key] for key in ("modelspec.trigger_phrase", "ss_trigger_words") if metadata.get(key)), "")
    words = [word.strip() for word in re.split(r"[,\n]", trigger) if word.strip()]
    told = [template.format(word) for word in words for template in _TEMPLATES]
    return list(dict.fromkeys([*told, *_captions(metadata)]))[: max(_MOST, len(words))]


def _captions(metadata: Mapping[str, str]) -> list[str]:
    """What kohya's trainer notes of captions: tags by folder, with counts; the commonest first."""
    try:
        folders: Any = json.loads(metadata.get("ss_tag_frequency", "{}"))
        counts: dict[str, int] = {}
        for tags in folders.values():
            for tag, count in tags.items():
                counts[tag.strip()] = counts.get(tag.strip(), 0) + int(count)
    except (ValueError, AttributeError, TypeError):
        return []
    return sorted((tag for tag in counts if tag), key=lambda tag: (-counts[tag], tag))
