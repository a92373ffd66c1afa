"""What is drawn to judge an adapter that holds several concepts: each alone, some together, and other things."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from PIL import Image

from ..sampling.shots import Shot
from .bench import Bench, need
from .concepts import Concept
from .prompts import read
from .relations import OPPOSITE
from .suites.subject import CONTEXTS, OTHERS

Who = tuple[Concept, ...]  # whom prompts name: one, two, or nobody
Pictures = Sequence[Image.Image]
Drawn = Mapping[Who, Pictures]
OTHER: Who = ()
PICTURE = re.compile(r"^an? (?:\w+ )?(?:photo|picture|portrait|painting|drawing) of ")


@dataclass(frozen=True)
class Plan:
    """Prompts, by whom they name.

    Attributes:
        concepts: what the adapter holds.
        prompts: of each concept, of each pair of subjects, of each subject in each style, and of other things.
        count: pictures of each prompt; of other things there is one.
    """

    concepts: Sequence[Concept]
    prompts: Mapping[Who, Sequence[str]]
    count: int

    @classmethod
    def of(cls, bench: Bench, concepts: Sequence[Concept]) -> Plan:
        """From the prompts of --prompts and --prompt, in which {} is the concept, and of --other.

        Raises:
            RequestError: none of the given prompts has {} in it.
        """
        c = bench.config
        given = [*(one.text for one in (read(c.prompts) if c.prompts else ())), *c.prompt]
        contexts = [text for text in given or CONTEXTS if "{}" in text]
        need(bool(contexts), "None of the prompts has {} in it, where a concept is to stand; write it into some.")
        others = c.other or list(OTHERS)
        things = [PICTURE.sub("", text) for text in _evenly(others, len(contexts))]
        within = [text for text in contexts if text.startswith("{}")] or ["{}"]  # what a style's words can stand before
        prompts: dict[Who, Sequence[str]] = {}
        for one in concepts:
            prompts[one,] = list(map(one.of, things)) if one.style else [t.replace("{}", one.words) for t in contexts]
        for pair in combinations([one for one in concepts if not one.style], 2):
            both = _beside(bench, *pair)
            prompts[pair] = [text.replace("{}", both[i % len(both)]) for i, text in enumerate(contexts)]
        for style in concepts:
            for one in concepts if style.style else ():
                if not one.style:
                    prompts[style, one] = [style.of(text.replace("{}", one.words)) for text in within]
        return cls(concepts, {**prompts, OTHER: others}, c.count)

    def shots(self, bench: Bench) -> list[Shot]:
        """All that is drawn."""
        return [shot for who, prompts in self.prompts.items() for shot in bench.shots(prompts, self.each(who))]

    def drawn(self, bench: Bench, draw: Callable[[list[Shot]], list[Image.Image]]) -> Drawn:
        """Everything, drawn, by whom it names."""
        shots = self.shots(bench)
        pictures = iter(draw(shots))
        return {who: [next(pictures) for _ in self.words(who)] for who in self.prompts}

    def words(self, who: Who) -> list[str]:
        """The prompt of each picture."""
        return [text for text in self.prompts[who] for _ in range(self.each(who))]

    def each(self, who: Who) -> int:
        """Pictures of each prompt."""
        return self.count if who else 1

    def together(self) -> list[Who]:
        """The pairs."""
        return [who for who in self.prompts if len(who) > 1]


def _beside(bench: Bench, one: Concept, other: Concept) -> list[str]:
    """Both at once: in each way to stand that the bundled judges know, where they know the two."""
    told = [f"{one.words} {way} {other.words}" for way in OPPOSITE]
    known = bench.panel is not None and all(bench.asked(text).relation for text in told)
    return told if known else [f"{one.words} and {other.words}"]


def _evenly(texts: Sequence[str], most: int) -> list[str]:
    count = min(most, len(texts))
    return [texts[i * len(texts) // count] for i in range(count)]
