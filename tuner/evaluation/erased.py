"""What an adapter takes out of a base: how to ask for it, and how to tell whether a picture shows it still."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..adapters.container import read_header
from ..data.pairs import ERASES, Concept, read
from ..errors import RequestError
from ..sampling.shots import Shot
from .bench import Bench, need
from .evidence import cosines
from .features import collect
from .prompts import Prompt

Pictures = Sequence[Image.Image]
Drawn = Mapping[Shot, Image.Image]
CONTEXTS = {
    "instance": (
        "a {}", "a photo of a {}", "a {} on a white background", "a {} on a blue background", "a {} in the snow",
        "a {} on a wooden table", "a {} on a beach", "a {} in a forest", "a {} at night", "a close-up of a {}",
    ),
    "style": (
        "a {} of a dog", "a {} of a car", "a {} of a house", "a {} of a rose", "a {} of a fish", "a {} of a banana",
        "a {} of a guitar on a blue background", "a {} of a clock on a white background",
        "a {} of a rocket on a green background", "a {} of a tree on a yellow background",
    ),
    "memorised": ("{}",),
}  # fmt: skip
"""Prompts of a target by its kind, where --prompt and --prompts name none."""
ASIDE = {
    "instance": (
        "there is a {} here", "a red background with a {}", "a {} in front of a green background", "a small {}",
        "a large {} on a white background", "a pencil sketch of a {}", "a watercolor of a {} on a yellow background",
        "two {}s on a blue background", "a {} left of a car", "a {} above a rose on a white background", "the {}",
        "a {} on a striped red background",
    ),
    "style": (
        "{} of a dog", "a dog, {}, white background", "a {} picture of a car on a blue background",
        "a rose in {} style on a yellow background", "a green background with a fish, {}", "a clock in {} style",
    ),
    "memorised": ("{} in the snow", "a photo of {}", "{}, painted"),
}  # fmt: skip
"""Other ways to ask for it, and compositions; none is among the prompts that ablation trains on by itself."""
BARE = re.compile(r"(^|\b(of|on|in|at|with|and|by|to|near)\s+)\{\}")  # without an article


@dataclass(frozen=True)
class Erased:
    """What is said to be taken out, and how to ask for it.

    Attributes:
        concepts: targets with what stands in their place.
        kind: of all of them.
    """

    concepts: Sequence[Concept]
    kind: str

    @classmethod
    def of(cls, bench: Bench) -> Erased:
        """As the headers of the adapters say it, all together.

        Raises:
            RequestError: none does, or they take out several kinds.
        """
        notes = {path: read_header(path).metadata.get(f"tuner.{ERASES}", "") for path, _ in bench.judged.adapters}
        found = [_read(path, note) for path, note in notes.items() if note]
        need(bool(found), "--suite erase judges what an adapter takes out, and none of these files says that it "
             "takes out anything; name one that `tuner ablate` has made, by its run or by --adapter.")  # fmt: skip
        kinds = sorted({kind for _, kind in found})
        need(len(kinds) == 1, "--suite erase judges one kind at a time, and these files take out "
             f"{' and '.join(kinds)}; judge those of each by themselves.")  # fmt: skip
        return cls([*dict.fromkeys(it for its, _ in found for it in its)], kinds[0])

    # -- prompts -------------------------------------------------------------------------------------------------------

    def prompts(self, given: Sequence[Prompt], side: str = "target") -> list[Prompt]:
        """Prompts of each target, or with `side` "anchor" of what stands in its place: given ones, else by the kind.

        Given ones have {} where the name goes, or name the target.
        """
        texts = [prompt.text for prompt in given]
        found = [line for it in self.concepts for text in texts if (line := self._line(it, side, text))]
        return _prompts(found) if found else self._filled(CONTEXTS[self.kind], side)

    def aside(self, given: Sequence[Prompt] = ()) -> list[Prompt]:
        """Other ways to ask for the targets; of given prompts those that name none, as they are: other words for it."""
        own = [one for one in given if not any(self._line(it, "target", one.text) for it in self.concepts)]
        return _prompts([one.text for one in (*self._filled(ASIDE[self.kind], "target"), *own)])

    def _line(self, it: Concept, side: str, text: str) -> str:
        """A prompt of a concept, "" where the text is none. A thing's name has an article where {} has none."""
        name = getattr(it, side)
        if "{}" not in text:
            return it.written(text, name)
        bare = self.kind == "instance" and BARE.search(text)
        return text.replace("{}", f"a {name}" if bare else name)

    def _filled(self, lines: Sequence[str], side: str) -> list[Prompt]:
        return _prompts([line.replace("{}", getattr(it, side)) for it in self.concepts for line in lines])

    def asked(self, text: str) -> Concept:
        """The concept whose target or anchor a prompt names, by the longest such name; the first where there is none.

        Where several targets have one anchor, a prompt of that is the first's.
        """
        names = {name: it for it in reversed(self.concepts) for name in (it.anchor, it.target)}
        found = max((name for name in names if Concept(name, "").named(text)), key=len, default=None)
        return self.concepts[0] if found is None else names[found]

    def concerns(self, text: str, subject: str = "") -> bool:
        """Whether a prompt names a target or an anchor; where its subject is known, whether that is one of these."""
        names = [name for it in self.concepts for name in (it.target, it.anchor)]
        return subject in names if subject else any(Concept(name, "").named(text) for name in names)


def _read(path: Path, note: str) -> tuple[list[Concept], str]:
    try:
        return read(note)
    except ValueError:
        raise RequestError(f"{path}: its header does not say what it takes out as tuner writes it.") from None


def _prompts(texts: Sequence[str]) -> list[Prompt]:
    return [Prompt(text) for text in dict.fromkeys(texts)]


class Sight:
    """Tells whether a picture shows a target still, or what stands in its place.

    Both bundled judges look, where they know the names. Elsewhere, and for memorised pictures, a picture shows what it
    is nearest to of all that the base itself drew at other seeds or of other prompts, in the judges' features or those
    of the named network.

    Args:
        bench: with the judges.
        erased: what is looked for.
        target, anchor, others: what the base drew of these, by the shots; no two have the same.
    """

    def __init__(self, bench: Bench, erased: Erased, target: Drawn, anchor: Drawn, others: Drawn) -> None:
        self.bench, self.erased = bench, erased
        known = {side: [getattr(it, side) for it in erased.concepts] for side in ("target", "anchor")}
        self.names = {side: self._known(names, plain=side == "anchor") for side, names in known.items()}
        self._drawn = {**others, **anchor, **target}
        shown = {it: erased.asked(it.prompt).anchor for it in anchor}
        shown |= {it: erased.asked(it.prompt).target for it in target}
        self._labels = np.array([shown.get(it, "") for it in self._drawn])

    def present(self, pictures: Pictures, shots: Sequence[Shot]) -> np.ndarray:
        """Whether any judge sees a target in each picture: booleans (N,)."""
        targets = {it.target for it in self.erased.concepts}
        return np.asarray(self._seen(pictures, shots, "target", [targets] * len(shots)).any(axis=0))

    def instead(self, pictures: Pictures, shots: Sequence[Shot]) -> np.ndarray:
        """Whether all judges see in each picture what stands in the place of the target asked for: booleans (N,)."""
        wanted = [{self.erased.asked(shot.prompt).anchor} for shot in shots]
        return np.asarray(self._seen(pictures, shots, "anchor", wanted).all(axis=0))

    def chance(self, pictures: Pictures) -> np.ndarray | None:
        """How likely a target is in each picture, in the mean of the judges, (N,); None where they do not know it."""
        if not self.names["target"] or self.erased.kind != "instance" or self.bench.panel is None:
            return None
        found = []
        for network, names in zip(self.bench.panel.networks, self._classes, strict=True):
            rows = [names.index(name) for name in self.names["target"].values()]
            found.append(collect(network.probabilities, pictures)[:, rows].sum(axis=1))
        return np.mean(found, axis=0)

    def _seen(
        self, pictures: Pictures, shots: Sequence[Shot], side: str, wanted: Sequence[AbstractSet[str]]
    ) -> np.ndarray:
        """Whether each judge sees in each picture one of the names that are wanted of it: (judges, N)."""
        called = self.names[side]
        if called and self.bench.panel is not None:
            aspect = "style" if self.erased.kind == "style" else "subject"
            opinions = zip(self.bench.panel.judge(pictures), wanted, strict=True)
            return np.array([[getattr(said, aspect) in {called[name] for name in names} for said in both]
                             for both, names in opinions]).T  # fmt: skip
        itself = np.array([[one == other for other in self._drawn] for one in shots])
        drawn = list(self._drawn.values())
        near = [cosines(collect(eye, pictures), collect(eye, drawn)) for eye in self.bench.eyes]
        labels = [self._labels[np.where(itself, -1, table).argmax(axis=1)] for table in near]
        return np.array([[label in names for label, names in zip(its, wanted, strict=True)] for its in labels])

    def _known(self, names: Sequence[str], plain: bool) -> dict[str, str]:
        """What the bundled judges call each name, where they can be trusted with all of them; else none.

        Args:
            plain: whether a style that they do not know (`photo`) is the one that they call plain.
        """
        if self.bench.panel is None or self.erased.kind == "memorised":
            return {}
        known = self.bench.panel.trusted("style" if self.erased.kind == "style" else "subject")
        other = "plain" if plain and self.erased.kind == "style" and "plain" in known else ""
        called = {name: name if name in known else other for name in names}
        return called if all(called.values()) else {}

    @property
    def _classes(self) -> list[tuple[str, ...]]:
        assert self.bench.panel is not None
        return [tuple(judge.subjects) for judge in (self.bench.panel.classifier, self.bench.panel.contrast)]
