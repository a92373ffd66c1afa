"""Learned words among what is judged: what prompts call them, how they began, what others read of such a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..adapters.embeddings import Embedding, is_embedding
from ..models.family import family_of
from ..models.words import beginning, teach


def learned(adapters: Iterable[tuple[Path, float]]) -> list[Embedding]:
    """The words among adapters."""
    return [Embedding.load(path) for path, _ in adapters if is_embedding(path)]


def called(adapters: Iterable[tuple[Path, float]]) -> str:
    """What prompts call the first of them: as its file says, else with an article before it; "" without words."""
    first = next(iter(learned(adapters)), None)
    return first.metadata.get("called", f"a {first.word.token}") if first else ""


def begin(base: Any, words: Sequence[Embedding]) -> None:
    """Teach a base, or a pipeline, what words began from, as far as their files say that.

    Then a prompt that names one is read as if these first words stood there; where there were none, as their vectors
    were before any training.
    """
    spelling = getattr(base, family_of(base).tokenizers[0])
    for one in words:
        if "began" in one.metadata:
            text, seed = one.metadata["began"], int(one.metadata.get("seed", 0))
            count = len(spelling(text, add_special_tokens=False).input_ids) or len(one.word)
            teach(base, beginning(base, one.word.token, count, text, seed))


def note(one: Embedding) -> str:
    """What a report says of a word."""
    token, said = one.word.token, one.metadata
    before = f" Before, it is what its training began from: {said['began'] or 'no word'}." if "began" in said else ""
    return f"No judge knows {token}: pictures are held to the rest of their prompts.{before}"


def without(text: str, words: Sequence[Embedding]) -> str:
    """A prompt as those read it who never learned the words: without them.

    So Gal et al. 2022 (arXiv:2208.01618, section 5.1) hold pictures to their prompts.
    """
    for one in words:
        token = re.escape(one.word.token)
        text = re.sub(rf"(?:\b(?:an?|the|my|one)\s+)?(?<!\w){token}(?!\w)", " ", text, flags=re.IGNORECASE)
    return " ".join(text.split())
