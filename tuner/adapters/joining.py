"""Learned words as files: copied together, renamed, or joined into one word whose vectors follow each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .. import __version__
from ..errors import RequestError
from ..models.family import FAMILIES
from ..models.words import Word
from .artifact import Artifact
from .describe import describe
from .embeddings import Embedding


@dataclass(frozen=True)
class Token:
    """A word's file, and where it goes.

    Attributes:
        path: where it lies.
        embedding: what it holds.
        dtype: its precision.
    """

    path: Path
    embedding: Embedding
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return self.embedding.word.token


def load(paths: Sequence[Path], renames: Sequence[str]) -> list[Token]:
    """The words of files, renamed.

    Raises:
        RequestError: a file is not a word's, a name is not there or is there twice, or the words are for different
            families.
    """
    tokens = [Token(path, *_whole(path)) for path in paths]
    for text in renames:
        old, _, new = text.partition("=")
        found = [n for n, token in enumerate(tokens) if token.name.lower() == old.lower()]
        if not found or not new.strip() or "=" in new:
            known = ", ".join(token.name for token in tokens)
            raise RequestError(f"--rename {text} must be OLD=NEW with OLD one of {known}.")
        for n in found:
            word = Word(new.strip(), tokens[n].embedding.word.vectors)
            tokens[n] = replace(tokens[n], embedding=replace(tokens[n].embedding, word=word))
    widths = {tuple(rows.shape[1] for rows in token.embedding.word.vectors) for token in tokens}
    if len(widths) > 1:
        told = " and ".join(" + ".join(map(str, sizes)) for sizes in sorted(widths))
        raise RequestError(f"The tokens have vectors of {told} numbers: they are for different families.")
    return tokens


def _whole(path: Path) -> tuple[Embedding, torch.dtype]:
    """A word with the facts of its family, which its header needs."""
    embedding, said = Embedding.load(path), describe(path)
    family = FAMILIES.get(said.family)
    prediction = embedding.metadata.get("prediction_type", "epsilon")
    facts = {"resolution": "512x512", "prediction_type": prediction, "version": __version__, "kohya_version": "",
             "architecture": family.architectures.get(prediction, "") if family else "unknown"}  # fmt: skip
    dtype = next(iter(Artifact.load(path).tensors.values())).dtype
    return replace(embedding, metadata={**facts, **embedding.metadata}), dtype


def write(tokens: Sequence[Token], out: Path) -> list[Path]:
    """Write the words: into a folder each for itself, into a file together as one word. Their paths.

    Raises:
        RequestError: two files of the folder would have one name, or two words are called alike.
    """
    if out.suffix == ".safetensors":
        joined(tokens, out.stem).embedding.artifact(tokens[0].dtype).save(out)
        return [out]
    names = [_file_of(token) for token in tokens]
    for kind, values in (("the file", names), ("the name", [token.name.lower() for token in tokens])):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise RequestError(f"Two of the tokens would have {kind} {twice}; give one another name by --rename.")
    for token, name in zip(tokens, names, strict=True):
        token.embedding.artifact(token.dtype).save(out / name)
    return [out / name for name in names]


def _file_of(token: Token) -> str:
    """The name of a word's file: ComfyUI and A1111 call words by it."""
    return re.sub(r"[^\w.+-]+", "_", token.name.strip("<>")).strip("_.") + ".safetensors"


def joined(tokens: Sequence[Token], name: str) -> Token:
    """Several words as one that has all their vectors, in this order. One alone keeps its name."""
    if len(tokens) == 1:
        return tokens[0]
    first = tokens[0]
    rows = zip(*(token.embedding.word.vectors for token in tokens), strict=True)
    word = Word(f"<{name}>", tuple(torch.cat(own) for own in rows))
    said: Mapping[str, str] = {**first.embedding.metadata, "merged_from": ", ".join(token.name for token in tokens)}
    return replace(first, embedding=Embedding(word, {**said, "title": name}))
