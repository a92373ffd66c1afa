"""Words that a base is taught: rows beside its embedding table, which itself stays as it is.

A learned word is one or several vectors that stand where a prompt names it (Gal et al. 2022, arXiv:2208.01618, section
3). Here it is added without touching anything that was there: a copy of the tokenizer spells it as tokens of its own,
and a layer around the embedding table looks those up elsewhere. So other rows cannot move in training, every program
path that encodes a prompt finds all of a word's vectors, and taking the old tokenizer and table back is exact.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ..errors import RequestError
from ..randomness import generator
from .family import family_of

_PRIVATE = 0xF0000  # Unicode's private use: signs that no prompt has, one a vector
_APART = 0.01  # how far vectors that begin alike are apart, in deviations of the table


@dataclass(frozen=True)
class Word:
    """A word that a base is taught.

    Attributes:
        token: what prompts call it, such as `<fox>`; capital letters do not count.
        vectors: for each of the base's text encoders, (N, D) with the same N.
    """

    token: str
    vectors: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.vectors[0])


class Longer(nn.Module):
    """An embedding table with further rows, for the tokens `first`, `first + 1`, ...; only those rows may train."""

    def __init__(self, table: nn.Module, rows: Tensor, first: int) -> None:
        super().__init__()
        self.table, self.first = table, first
        self.rows = nn.Parameter(rows, requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        place = ids - self.first
        new = (place >= 0) & (place < len(self.rows))
        old = self.table(ids.masked_fill(new, 0))
        return torch.where(new[..., None], embedding(place.masked_fill(~new, 0), self.rows).to(old), old)


def teach(base: Any, word: Word) -> list[nn.Parameter]:
    """Teach a word to a LatentDiffusion or to a diffusers pipeline.

    Returns:
        Its rows in each text encoder, (N, D): parameters, which train where they are told to require gradients.

    Raises:
        RequestError: the base has the word already, or other widths.
    """
    wrong = misfit(base, word)
    if wrong:
        raise RequestError(f"This base cannot be taught {word.token}: {wrong}.")
    family, rows = family_of(base), []
    for tokens, network, vectors in zip(family.tokenizers, family.encoders, word.vectors, strict=True):
        encoder = getattr(base, network)
        table = encoder.get_input_embeddings()
        spelling, first = _spelling(getattr(base, tokens), word.token, len(vectors))
        longer = Longer(table, vectors.detach().clone().to(next(table.parameters())), first)
        encoder.set_input_embeddings(longer)
        setattr(base, tokens, spelling)
        rows.append(longer.rows)
    return rows


@contextmanager
def forgetting(base: Any) -> Iterator[None]:
    """What a base is taught within, it forgets after: it gets back the very tokenizers and tables that it had."""
    family = family_of(base)
    tokenizers = {name: getattr(base, name) for name in family.tokenizers}
    tables = [(encoder, encoder.get_input_embeddings()) for encoder in _encoders(base)]
    try:
        yield
    finally:
        for name, tokenizer in tokenizers.items():
            setattr(base, name, tokenizer)
        for encoder, table in tables:
            encoder.set_input_embeddings(table)


def misfit(base: Any, word: Word) -> str:
    """Why a base cannot be taught a word, as a clause; empty where it can."""
    widths = [encoder.config.hidden_size for encoder in _encoders(base)]
    found = [vectors.shape[-1] for vectors in word.vectors]
    if found != widths:
        has, wants = (" and ".join(map(str, sizes)) for sizes in (found, widths))
        return f"its vectors are {has} wide, the base's text encoder{'s have' * (len(widths) > 1) or ' has'} {wants}"
    counts = {len(vectors) for vectors in word.vectors}
    if len(counts) > 1 or 0 in counts:
        return f"it has {' and '.join(str(len(vectors)) for vectors in word.vectors)} vectors"
    for tokenizer in (getattr(base, name) for name in family_of(base).tokenizers):
        pieces = tokenizer.tokenize(word.token)
        if len(pieces) < 2 or any(piece in tokenizer.added_tokens_encoder for piece in pieces):
            return f"it has the word {word.token} already" if pieces else "its name is empty"
        if len(word) > tokenizer.model_max_length - 2:
            return f"{len(word)} vectors do not fit into a prompt of {tokenizer.model_max_length} tokens"
    return ""


@torch.no_grad()
def beginning(base: Any, token: str, count: int, text: str, seed: int) -> Word:
    """A word before its training, of `count` vectors.

    They are those of the text's own tokens where these are as many, else the mean of those again and again, a little
    apart; without a text, the mean of the whole table.
    """
    family, made = family_of(base), []
    for name, encoder in zip(family.tokenizers, _encoders(base), strict=True):
        tokenizer, table = getattr(base, name), encoder.get_input_embeddings()
        ids = tokenizer(text, add_special_tokens=False).input_ids
        every = table(torch.arange(len(tokenizer), device=encoder.device))
        known = every[ids] if ids else every
        noise = torch.randn(count, known.shape[1], generator=generator(seed, "beginning", name))
        alike = known.mean(0) + (_APART * every.std() * noise.to(known) if count > 1 else 0)
        made.append(known if len(ids) == count else alike.expand(count, -1).clone())
    return Word(token, tuple(made))


def own_words(base: Any, text: str) -> Word:
    """A text of several tokens as a word of its own, with the vectors that the base has for them."""
    tokenizer = getattr(base, family_of(base).tokenizers[0])
    return beginning(base, text, len(tokenizer(text, add_special_tokens=False).input_ids), text, 0)


def _encoders(base: Any) -> list[Any]:
    return [getattr(base, name) for name in family_of(base).encoders]


def _spelling(tokenizer: Any, token: str, count: int) -> tuple[Any, int]:
    """A copy of a tokenizer that writes a word as `count` tokens of its own, and the number of the first.

    The copy's normalizer puts private signs in the word's place, each of which is an added token. A word of letters
    counts only where it stands alone.
    """
    from tokenizers import AddedToken, Regex, normalizers

    made = copy.deepcopy(tokenizer)
    backend, first = made.backend_tokenizer, len(made)
    signs = [chr(_PRIVATE + first - made.vocab_size + k) for k in range(count)]
    made.add_tokens([AddedToken(sign, normalized=True) for sign in signs])
    said = backend.normalizer.normalize_str(token)
    alone = said[0].isalnum() and said[-1].isalnum()
    pattern = Regex(rf"(?<![\w<]){re.escape(said)}(?![\w>])") if alone else said
    steps = [backend.normalizer, normalizers.Replace(pattern, "".join(signs))]
    backend.normalizer = normalizers.Sequence(steps)
    return made, first
