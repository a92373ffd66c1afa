"""What pictures teach: beside the noisy picture of one prompt, another shall predict what a third does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..errors import RequestError
from ..models.conditioning import Conditioning
from ..models.knowledge import explained
from .batch import Batch
from .pairs import Pair
from .source import Source, drawn

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion

SHOWN = 6  # pictures of a prompt by which a base's knowledge is told
KNOWN = 0.55  # of how well the anchor's words explain its pictures: on the bundled base at least .7, of strangers .45


def lessons(pairs: Sequence[Pair], stays: bool) -> dict[str, list[Pair]]:
    """Caption of a picture -> what is learned beside it: on pictures of each anchor, its targets.

    Args:
        stays: on pictures of the targets, too; and the anchors themselves are to stay as they are.
    """
    found: dict[str, list[Pair]] = {pair.anchor: [] for pair in pairs}
    for pair in pairs:
        found[pair.anchor].append(pair)
        if stays:
            found.setdefault(pair.target, []).append(pair)
    if stays:
        for anchor in dict.fromkeys(pair.anchor for pair in pairs):
            found[anchor].append(Pair.same(anchor))
    return found


def check_known(config: Any, model: LatentDiffusion, pairs: Sequence[Pair]) -> None:
    """Refuse to train on a target of which a base has no idea, as far as its first pair of prompts tells.

    Raises:
        RequestError: made-up words explain what it draws of a target too well, beside what it draws of the anchor.
    """
    for pair in {one.target_words: one for one in reversed(pairs)}.values():
        shares = []
        for prompt, words in ((pair.target, pair.target_words), (pair.anchor, pair.anchor_words)):
            moments = drawn(config, model, [prompt], SHOWN).moments
            assert moments is not None
            shares.append(explained(model, moments.take(range(SHOWN)).to(model.device), prompt, words))
        if shares[0] < KNOWN * shares[1]:
            raise RequestError(
                f'--target "{pair.target_words}": the base does not seem to know it. Its pictures of "{pair.target}" '
                f'are explained {shares[0]:.0%} better by these words than by made-up ones, those of "{pair.anchor}" '
                f"{shares[1]:.0%}; name what it can draw, or go on with --force."
            )


class Told:
    """Prompts as the base's U-Net is told them, encoded once."""

    def __init__(self, model: LatentDiffusion, prompts: Iterable[str]) -> None:
        texts = list(dict.fromkeys(prompts))
        self._row = {text: row for row, text in enumerate(texts)}
        with torch.no_grad():
            parts = [model.encode_prompts(texts[i : i + 64]) for i in range(0, len(texts), 64)]
        self._states = Conditioning.cat(parts)

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        return self._states[[self._row[prompt] for prompt in prompts]]


@dataclass(frozen=True)
class Lessons:
    """What a base's own pictures are to teach.

    Attributes:
        source: the pictures.
        pairs: caption of a picture -> what is learned beside it.
        kept: prompts whose pictures are to stay as they are.
        told: all prompts, encoded.
    """

    source: Source
    pairs: Mapping[str, Sequence[Pair]]
    kept: Sequence[str]
    told: Told

    @classmethod
    def of(
        cls, config: Any, model: LatentDiffusion, pairs: Sequence[Pair], kept: Sequence[str], stays: bool
    ) -> Lessons:
        """Pictures of the anchors, `config.anchor_images` of each.

        Args:
            kept: prompts whose pictures are to stay; without any, the anchors'.
            stays: whether pictures of the targets, and one of each prompt that is to stay, are learned on, too.
        """
        kept = list(dict.fromkeys(kept)) or [pair.anchor for pair in pairs]
        own = lessons(pairs, stays)
        more = [text for text in kept if stays and text not in own]
        source = drawn(config, model, list(own), config.anchor_images)
        if more:
            source = source.with_prior(drawn(config, model, more, 1))
        every = {**own, **{text: [Pair.same(text)] for text in more}}
        names = (text for its in every.values() for pair in its for text in (pair.target, pair.anchor))
        return cls(source, every, kept, Told(model, ["", *kept, *names]))

    def taken(self, batch: Batch) -> tuple[list[str], list[str]]:
        """For each example the prompt that learns and the one that teaches: one of its caption's pairs, in turns."""
        turns = batch.draw.integers("lesson", 2**31).tolist()
        found = [self.pairs[caption] for caption in batch.captions]
        chosen = [its[turn % len(its)] for its, turn in zip(found, turns, strict=True)]
        return [pair.target for pair in chosen], [pair.anchor for pair in chosen]
