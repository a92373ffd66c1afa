"""Prompts of a base's own words, which are to mean what they did when a concept is taken out of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..models.tokens import whole_words
from .pairs import TEMPLATES, Pair

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion

ANY, EACH = 256, 4  # prompts of any words, and of each of those that are most like the targets
NEAR, LEAST = 64, 32  # words that are most like the targets, and how many of each target at the least
READ = 4096  # words that are held against the targets: tokenizers have the frequent ones first
SPAN = 8  # tokens, of the name and of what follows it
STYLES = (
    "pencil sketch", "charcoal drawing", "ink drawing", "line art", "oil painting", "acrylic painting", "watercolor",
    "pastel drawing", "pixel art", "mosaic", "stained glass", "woodcut", "comic", "cartoon", "anime", "manga", "neon",
    "graffiti", "collage", "origami", "clay sculpture", "vector illustration", "3d render", "photo",
)  # fmt: skip
"""What styles are usually called: names of two words, too, which no single word of a base's own stands for."""
LETTERS = 4  # of the shortest word that is looked for inflected: not "a", "of", "the"


def around(model: LatentDiffusion, pairs: Sequence[Pair], seed: int) -> list[str]:
    """Prompts like the pairs', with one or two other words in the name's place: any words, and words like it.

    What an edit harms first is what the text encoder reads most like the target: `crying` beside `grumpy`, `pencil` and
    `mosaic` beside `watercolor`. None is a target's own word, nor an inflected one (`rocket`, `rockets`).
    """
    words = free(whole_words(model.tokenizers[0]), pairs)
    if len(words) < 2:
        return []
    own = list(dict.fromkeys((pair.before, pair.after) for pair in pairs))
    usual = [(before, after) for before, _, after in (text.partition("{}") for text in TEMPLATES["instance"])]
    frames = usual if own == [("", "")] else own  # a caption is all there is of itself
    near = alike(model, pairs, words)
    return [*_filled(frames, words, ANY, seed), *_filled(frames, near, EACH * len(near), seed + 1)]


def kin(pairs: Sequence[Pair], kind: str) -> list[str]:
    """Prompts like the pairs' with others of the targets' kind in the name's place: of a style `STYLES`, twice each.

    No name has a word that is a target's alone. Things are beyond number, so that there are none beside these.
    """
    names = [name for name in STYLES if len(free(name.split(), pairs)) == len(name.split())] if kind == "style" else []
    places = list(dict.fromkeys((pair.before, pair.after) for pair in pairs))
    chosen = zip(cycle(places), [*names, *names], strict=False)
    return list(dict.fromkeys(f"{before}{name}{after}" for (before, after), name in chosen))


def free(words: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    """The words that are no target's alone: neither a word of its name nor one that begins as a longer one does."""
    stays = {word for pair in pairs for word in pair.anchor_words.split()}
    gone = {word for pair in pairs for word in pair.target_words.split()} - stays
    stems = tuple(word[:-1] for word in gone if len(word) >= LETTERS)
    gone |= {f"{word}{end}" for word in gone for end in ("s", "es")}  # of short ones: `owls`
    return [word for word in words if word in stays or not (word in gone or word.startswith(stems))]


@torch.no_grad()
def alike(model: LatentDiffusion, pairs: Sequence[Pair], words: Sequence[str]) -> list[str]:
    """Of the words the `NEAR` whose prompts are read most like the targets', as many for each target, `LEAST` or more.

    Likeness is the cosine of the states of `SPAN` tokens from the name's place on, less their mean over the words.
    """
    first, words = pairs[0], words[:READ]
    start = 1 + len(model.tokenizers[0](first.before.strip(), add_special_tokens=False).input_ids)

    def read(names: Sequence[str]) -> Tensor:
        texts = [f"{first.before}{name}{first.after}" for name in names]
        parts = [model.encode_prompts(texts[i : i + 64]).hidden for i in range(0, len(texts), 64)]
        return torch.cat([part[:, start : start + SPAN].flatten(1).float() for part in parts])

    targets, states = read(list(dict.fromkeys(pair.target_words for pair in pairs))), read(words)
    middle = states.mean(dim=0)
    near = normalize(targets - middle) @ normalize(states - middle).T
    each = max(LEAST, -(-NEAR // len(near)))
    rows = near.argsort(dim=1, descending=True)[:, :each].T.flatten().tolist()
    return [words[row] for row in dict.fromkeys(rows)]


def _filled(frames: Sequence[tuple[str, str]], words: Sequence[str], count: int, seed: int) -> list[str]:
    """Prompts of what stands before and after, in turns, with one or two of the words between, in turns."""
    draws = random.Random(seed)
    rows = ((frames[k // 2 % len(frames)], draws.sample(words, 1 + k % 2)) for k in range(count))
    return [f"{before}{' '.join(chosen)}{after}" for (before, after), chosen in rows]
