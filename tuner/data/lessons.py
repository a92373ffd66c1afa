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
from .vocabulary import around

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion

SHOWN = 6  # pictures of a prompt by which a base's knowledge is told
KNOWN = 0.55  # of how well the anchor's words explain its pictures: on the bundled base at least .7, of strangers .45
BEYOND = 1.5  # of how well a made-up word explains its own: on the bundled base anchors come to 2.5 and more
STRANGER = "blorp"


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
    """Refuse to train on a target or an anchor of which a base has no idea, as far as its first pair of prompts tells.

    Raises:
        RequestError: made-up words explain what it draws of an anchor nearly as well as they do of one of themselves,
            or what it draws of a target too well, beside what it draws of the anchor.
    """

    def share(prompt: str, words: str) -> float:
        moments = drawn(config, model, [prompt], SHOWN).moments
        assert moments is not None
        return explained(model, moments.take(range(SHOWN)).to(model.device), prompt, words)

    for pair in {one.target_words: one for one in reversed(pairs)}.values():
        target, anchor = share(pair.target, pair.target_words), share(pair.anchor, pair.anchor_words)
        stranger = share(f"{pair.before}{STRANGER}{pair.after}", STRANGER)
        for flag, words, its, least in (("anchor", pair.anchor_words, anchor, BEYOND * stranger),
                                        ("target", pair.target_words, target, KNOWN * anchor)):  # fmt: skip
            if its < least:
                raise RequestError(
                    f'--{flag} "{words}": the base does not seem to know it. Its own words explain what it draws of '
                    f"them {its:.0%} better than made-up ones, and that should be {least:.0%} at the least; name what "
                    "it can draw, or go on with --force."
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
        words: prompts of words of the base's own vocabulary, which are to mean what they did.
        told: all prompts, encoded.
    """

    source: Source
    pairs: Mapping[str, Sequence[Pair]]
    kept: Sequence[str]
    words: Sequence[str]
    told: Told

    @classmethod
    def of(
        cls, config: Any, model: LatentDiffusion, pairs: Sequence[Pair], kept: Sequence[str], stays: bool
    ) -> Lessons:
        """Pictures of the anchors, `config.anchor_images` of each; a single one where no step learns on them.

        Args:
            kept: prompts whose pictures are to stay; without any, where such are learned on, the anchors'.
            stays: whether pictures of the targets, of the anchors for their own sake, and one of each prompt that is to
                stay, are learned on, and whether all other words are to mean what they did.
        """
        kept = list(dict.fromkeys(kept)) or ([pair.anchor for pair in pairs] if stays else [])
        own = lessons(pairs, stays)
        more = [text for text in kept if stays and text not in own]
        source = drawn(config, model, *((list(own), config.anchor_images) if config.steps else (list(own)[:1], 1)))
        if more and config.steps:
            source = source.with_prior(drawn(config, model, more, 1))
        words = around(model, pairs, config.seed) if stays else []
        every = {**own, **{text: [Pair.same(text)] for text in more}}
        names = (text for its in every.values() for pair in its for text in (pair.target, pair.anchor))
        return cls(source, every, kept, words, Told(model, ["", *kept, *words, *names]))

    def taken(self, batch: Batch) -> tuple[list[str], list[str]]:
        """For each example the prompt that learns and the one that teaches: one of its caption's pairs, in turns.

        Every other one of what is to stay is one of the words.
        """
        turns = batch.draw.here.integers("lesson", 2**31).tolist()
        chosen = [self._lesson(caption, turn) for caption, turn in zip(batch.captions, turns, strict=True)]
        return [pair.target for pair in chosen], [pair.anchor for pair in chosen]

    def _lesson(self, caption: str, turn: int) -> Pair:
        own = self.pairs[caption]
        turn, place = divmod(turn, len(own))
        if self.words and turn % 2 and own[place].target == own[place].anchor:
            return Pair.same(self.words[turn // 2 % len(self.words)])
        return own[place]
