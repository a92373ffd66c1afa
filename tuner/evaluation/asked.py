"""What a prompt asks for, as far as the bundled judges can see it: a subject, a background, a style, a relation."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .relations import OPPOSITE, Related

SEVERAL = re.compile(r"\b(two|three|four|five|several|many)\b")
ASPECTS = ("subject", "background", "style")


@dataclass(frozen=True)
class Asked:
    """A prompt's words that judges know; "" where it names none of a kind, or several.

    Attributes:
        relation: of two subjects that stand to each other in one of the ways that judges know.
    """

    subject: str = ""
    background: str = ""
    style: str = ""
    relation: Related | None = None


class Names:
    """The names that are looked for in prompts.

    Args:
        subjects, backgrounds, styles: those that take part; a background is named as "COLOUR background".
        others: names that are not asked for, but must not be taken for shorter ones ("grumpy cat" for "cat").
    """

    def __init__(
        self, subjects: Iterable[str], backgrounds: Iterable[str], styles: Iterable[str], others: Iterable[str] = ()
    ) -> None:
        self.subjects, self.backgrounds = set(subjects), set(backgrounds)
        self._subject = _any_of({*self.subjects, *others})
        self._style = _any_of(set(styles) - {"plain"})

    def asked(self, prompt: str) -> Asked:
        """What a prompt asks for. Two subjects are a relation or nothing; a number of them ("two cats") is nothing."""
        text = " ".join(prompt.lower().split())
        colours = [word for word in re.findall(r"\b([a-z]+) background\b", text) if word in self.backgrounds]
        text = re.sub(r"\b([a-z]+) background\b", "", text)
        styles = self._style.findall(text)
        found = list(self._subject.finditer(self._style.sub("", text)))
        names = [match[0] for match in found]
        background = colours[0] if len(colours) == 1 else ""
        style = styles[0] if len(styles) == 1 else ""
        if len(found) == 2 and names[0] != names[1] and self.subjects.issuperset(names):
            between = found[0].string[found[0].end() : found[1].start()]
            relation = next((one for one in OPPOSITE if re.search(rf"\b{one}\b", between)), "")
            return Asked("", background, style, Related(names[0], relation, names[1]) if relation else None)
        known = len(names) == 1 and names[0] in self.subjects and not SEVERAL.search(text)
        return Asked(names[0] if known else "", background, style)


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """One of the names as whole words, the longest that fits."""
    ordered = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, ordered))})\b" if ordered else r"(?!)")
