"""Learned words as files: what textual inversion leaves, and what other programs call embeddings.

One text encoder: a single tensor (N, D), under the word itself (diffusers) or `emb_params` (kohya's scripts). Two
(SDXL): `clip_l` and `clip_g`; diffusers loads those tensor by tensor, or from a pair of files of the first form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import RequestError
from ..models.family import family_of
from ..models.words import Word, misfit, teach
from . import header
from .artifact import Artifact
from .container import read_header
from .describe import is_word

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion

NAMELESS = ("emb_params", "string_to_param.*", "*")  # keys that are no word: the file's name is
PAIR = ("clip_l", "clip_g")


def is_embedding(path: Path) -> bool:
    """Whether a file's header is that of a learned word. Raises RequestError where it is not a whole file."""
    return is_word(read_header(path))


@dataclass(frozen=True)
class Embedding:
    """A learned word (an `Export`).

    Attributes:
        word: its name and vectors.
        metadata: what the files say about it, by plain names (see `header`).
    """

    word: Word
    metadata: Mapping[str, str] = field(default_factory=dict)

    # -- files ---------------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: Path) -> Embedding:
        """Read a file of one's own or of another program.

        Raises:
            RequestError: it is not a whole .safetensors file, or holds something else than a word's vectors.
        """
        artifact = Artifact.load(path)
        tensors = dict(artifact.tensors)
        names = PAIR if tensors.keys() == set(PAIR) else tuple(tensors)
        vectors = tuple(tensors[name].float() for name in names)
        vectors = tuple(rows[None] if rows.ndim == 1 else rows for rows in vectors)
        if (len(names) != 1 and names != PAIR) or any(rows.ndim != 2 or not len(rows) for rows in vectors):
            raise RequestError(
                f"{path} is not a token's file: it should hold one tensor of vectors, or clip_l and clip_g."
            )
        named = "" if names == PAIR or names[0] in NAMELESS else names[0]
        token = artifact.metadata.get("tuner.token") or named or path.stem
        return cls(Word(token, vectors), header.plain(artifact.metadata))

    def artifact(self, dtype: torch.dtype = torch.float32) -> Artifact:
        """The file that ComfyUI and A1111 load, and with one text encoder diffusers."""
        vectors = self.word.vectors
        names = PAIR if len(vectors) > 1 else (self.word.token,)
        return self._file(dict(zip(names, vectors, strict=True)), dtype)

    def write(self, folder: Path, name: str, dtype: torch.dtype) -> list[Path]:
        """Write NAME.safetensors and, with two text encoders, diffusers/NAME.clip_l.safetensors and its like."""
        named = replace(self, metadata={"title": name, **self.metadata})
        files = {folder / f"{name}.safetensors": named.artifact(dtype)}
        if len(self.word.vectors) > 1:
            for part, rows in zip(PAIR, self.word.vectors, strict=True):
                files[folder / "diffusers" / f"{name}.{part}.safetensors"] = named._file({self.word.token: rows}, dtype)
        for path, artifact in files.items():
            artifact.save(path)
        return list(files)

    def _file(self, tensors: dict[str, Tensor], dtype: torch.dtype) -> Artifact:
        tensors = {name: rows.detach().cpu().to(dtype) for name, rows in tensors.items()}
        metadata = {**self.metadata, "token": self.word.token, "trigger_phrase": self.word.token}
        return Artifact(tensors, header.hashed(header.modelspec(metadata, "textual-inversion"), tensors))

    @classmethod
    def of(cls, base: LatentDiffusion, word: Word, metadata: Mapping[str, str]) -> Embedding:
        """A word that was learned on a base, with what the base says of itself."""
        copies = tuple(rows.detach().clone() for rows in word.vectors)  # the model's own will be let go of
        return cls(Word(word.token, copies), {**header.facts(base), **metadata})

    # -- use -----------------------------------------------------------------------------------------------------------

    def prove(self, paths: list[Path], base: LatentDiffusion) -> list[str]:
        """Load the files as other programs do, on a base without the word; a sentence for each proof.

        Raises:
            RunError: a program would take them in part, or they have no effect.
        """
        from .embedding_proof import prove

        return prove(self, paths, base)

    def usage(self, paths: list[Path], prompt: str) -> str:
        """How to use the files in diffusers, ComfyUI and A1111, as Markdown."""
        from .usage import of_word

        return of_word(self, paths, prompt)

    def flags(self, paths: list[Path], base: str) -> str:
        """What `tuner generate` is told to draw with the files."""
        from .usage import flags

        return flags(paths[0], base)


def apply(pipe: Any, path: Path, weight: float) -> None:
    """Teach a pipeline the word of a file.

    Raises:
        RequestError: the file is not a word's, does not fit this pipeline, or a weight is asked for.
    """
    if weight != 1:
        raise RequestError(f"--adapter {path}:{weight:g} is a token, which has no weight; leave :{weight:g} out.")
    found = Embedding.load(path)
    wrong = misfit(pipe, found.word)
    if wrong and len(found.word.vectors) != len(family_of(pipe).encoders):
        raise RequestError(f"--adapter {path} is not for {family_of(pipe).title}: {wrong}.")
    if wrong:
        raise RequestError(f"--adapter {path} does not fit this base: {wrong}.")
    teach(pipe, found.word)
