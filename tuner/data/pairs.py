"""Pairs of prompts that differ in one thing: what a concept is called, and what shall stand in its place."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import RequestError

ERASES = "erases"
"""Under this plain name a file's header says what it takes out: what `noted` writes and `read` reads."""

TEMPLATES = {
    "instance": (
        "a {}", "a photo of a {}", "a picture of a {}", "a {} on a white background", "a {} on a black background",
        "a {} on a red background", "a {} on a blue background", "a {} on a green background",
        "a {} on a yellow background", "a photo of a {} on a brown background", "a {} in front of a gray background",
        "a pink background with a {}",
    ),
    "style": (
        "a {} of a house", "a {} of a tree", "a {} of a dog", "a {} of a car", "a {} of a rose", "a {} of a fish",
        "a {} of a banana on a white background", "a {} of a clock on a blue background",
        "a {} of a bird on a yellow background", "a {} of a guitar on a green background",
    ),
    "memorised": ("{}",),
}  # fmt: skip
"""Prompts by the kind of concept, where none are given."""


@dataclass(frozen=True)
class Pair:
    """A prompt of a target and the same of its anchor: what stands before, the words of each, and what follows."""

    before: str
    target_words: str
    anchor_words: str
    after: str

    @classmethod
    def same(cls, prompt: str) -> Pair:
        """A prompt that is its own anchor."""
        return cls("", prompt, prompt, "")

    @property
    def target(self) -> str:
        return f"{self.before}{self.target_words}{self.after}"

    @property
    def anchor(self) -> str:
        return f"{self.before}{self.anchor_words}{self.after}"


@dataclass(frozen=True)
class Concept:
    """What is to be gone, and what stands in its place; both in small letters, as text encoders read them."""

    target: str
    anchor: str

    def pair(self, line: str) -> Pair | None:
        """The prompts that a line gives, which has {} or names the target or the anchor; None where it does not."""
        if "{}" in line:
            before, _, after = line.partition("{}")
            return Pair(before, self.target, self.anchor, after)
        longer, shorter = sorted((self.target, self.anchor), key=len, reverse=True)  # one may be a part of the other
        found = _named(longer, line) or _named(shorter, line)
        return Pair(line[: found.start()], self.target, self.anchor, line[found.end() :]) if found else None

    def named(self, text: str) -> bool:
        """Whether a prompt names the target."""
        return bool(_named(self.target, text))

    def written(self, text: str, name: str) -> str:
        """A prompt that names the target, with a name in its place; "" where it does not name it."""
        found = _named(self.target, text)
        return f"{text[: found.start()]}{name}{text[found.end() :]}" if found else ""


def _named(words: str, text: str) -> re.Match[str] | None:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE)


def concepts(targets: Sequence[str], anchors: Sequence[str]) -> list[Concept]:
    """Targets with their anchors: one for all, or one each.

    Raises:
        RequestError: a name is empty, a target is an anchor, is named twice, or the numbers do not fit.
    """
    names = [[" ".join(name.lower().split()) for name in these] for these in (targets, anchors)]
    for flag, these in zip(("--target", "--anchor"), names, strict=True):
        if not these or not all(these):
            raise RequestError(f'{flag} is empty; say {flag} "{"grumpy cat" if flag == "--target" else "cat"}".')
    wanted, places = names
    if len(places) not in (1, len(wanted)):
        raise RequestError(
            f"There are {len(wanted)} of --target and {len(places)} of --anchor; name one anchor for all, or one each."
        )
    if len(set(wanted)) < len(wanted):
        raise RequestError(f'--target "{max(wanted, key=wanted.count)}" is named twice; name each once.')
    found = [Concept(*both) for both in zip(wanted, places * (len(wanted) // len(places)), strict=True)]
    same = next((it for it in found if it.target == it.anchor), None)
    if same:
        raise RequestError(
            f'--target and --anchor are both "{same.target}"; the anchor is what shall stand in its place.'
        )
    gone = next((it.anchor for it in found if it.anchor in wanted), "")
    if gone:
        raise RequestError(f'--anchor "{gone}" is to be gone itself, as a --target; name another in its place.')
    return found


def pairs_of(found: Sequence[Concept], kind: str, file: str = "") -> list[Pair]:
    """Pairs of prompts of each concept: from the lines of a file, else from the templates of a kind.

    Raises:
        RequestError: the file cannot be read, has {} twice in a line, or no line that is of use for some concept.
    """
    lines = _lines(file) if file else TEMPLATES[kind]
    twice = next((line for line in lines if line.count("{}") > 1), "")
    if twice:
        raise RequestError(f'--prompts {file}: "{twice}" has {{}} more than once; have it once a line.')
    made = {it: [pair for pair in map(it.pair, lines) if pair and not _taught_to_stay(pair, found)] for it in found}
    useless = next((it for it, its in made.items() if not its), None)
    if useless:
        raise RequestError(
            f'--prompts {file} has no line with {{}}, where the words go, or with "{useless.anchor}"; write such lines.'
        )
    return [pair for its in made.values() for pair in its]


def _taught_to_stay(pair: Pair, found: Sequence[Concept]) -> bool:
    """Whether the anchor's prompt, which is to stay as it is, names a target beside the anchor."""
    return any(it.named(pair.anchor) and not it.named(pair.anchor_words) for it in found)


def noted(found: Sequence[Concept], kind: str) -> str:
    """Concepts and their kind as a line of JSON."""
    return json.dumps({"kind": kind, "concepts": [[it.target, it.anchor] for it in found]})


def read(note: str) -> tuple[list[Concept], str]:
    """The concepts and their kind from such a line. Raises ValueError where it is none."""
    try:
        values = json.loads(note)
        found, kind = [Concept(str(target), str(anchor)) for target, anchor in values["concepts"]], values["kind"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a note of what is taken out: {note}") from error
    if not found or kind not in TEMPLATES:
        raise ValueError(f"not a note of what is taken out: {note}")
    return found, kind


def _lines(path: str) -> list[str]:
    """The lines of a prompt file, without empty ones.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise RequestError(f"--prompts {path} is no text file; name one with a prompt a line.") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
