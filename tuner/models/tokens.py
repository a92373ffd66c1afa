"""A CLIPTokenizer made from a list of words, each of which is one token."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
Pair = tuple[str, str]


def tokenizer(words: Iterable[str], length: int) -> CLIPTokenizer:
    """A tokenizer in which each of `words` (ASCII letters) is one token; other words fall apart into pieces of them.

    Args:
        words: those that are not letters alone are left out.
        length: the longest prompt, in tokens, start and end included.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    symbols = sorted(ByteLevel.alphabet())
    merges = byte_pairs({word.lower() for word in words if word.isalpha() and word.isascii()})
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *map("".join, merges), START, END]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocabulary, merges, model_max_length=length)


def byte_pairs(words: Iterable[str]) -> list[Pair]:
    """The merges, in order, that make every word whole (byte-pair encoding, Sennrich et al. 2016, arXiv:1508.07909).

    The commonest pair is merged first, and of equally common ones the first in the alphabet: the `tokenizers` library
    leaves that to chance, and two runs would give a word different numbers.
    """
    pieces = [[*word[:-1], word[-1] + "</w>"] for word in sorted(words)]
    counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)

    def note(number: int, sign: int) -> None:
        for pair in zip(pieces[number], pieces[number][1:], strict=False):
            counts[pair] += sign
            places[pair].add(number)

    for number in range(len(pieces)):
        note(number, 1)
    merges = []
    while counts and max(counts.values()) > 0:
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for number in sorted(places.pop(best)):
            note(number, -1)
            pieces[number] = _merged(pieces[number], best)
            note(number, 1)
        counts = Counter({pair: count for pair, count in counts.items() if count > 0})
    return merges


def _merged(pieces: list[str], pair: Pair) -> list[str]:
    """The pieces of a word with every occurrence of a pair made one."""
    made: list[str] = []
    for piece in pieces:
        if made and (made[-1], piece) == pair:
            made[-1] += piece
        else:
            made.append(piece)
    return made


def whole_words(tokenizer: CLIPTokenizer) -> list[str]:
    """The words of three letters and more that a tokenizer of CLIP's kind has as one token, in their order."""
    ends = sorted((row, token.removesuffix("</w>")) for token, row in tokenizer.get_vocab().items() if "</w>" in token)
    return [word for _, word in ends if len(word) > 2 and word.isascii() and word.isalpha()]
