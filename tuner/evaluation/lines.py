"""A figure that speaks for or against an edit, its verdict, and both in words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from .statistics import Figure, Z

Direction = Literal["higher", "lower", ""]
Verdict = Literal["better", "worse", "same", "unclear", ""]

ORDER: tuple[Verdict, ...] = ("better", "worse", "unclear", "same", "")
SAID = {"better": "Better.", "worse": "Worse.", "unclear": "Unclear.", "same": "The same."}
_MOST = 6  # decimals before a number is written with an exponent


@dataclass(frozen=True)
class Line:
    """A figure that speaks for or against an edit.

    Attributes:
        figure: of what is judged.
        before: the same of what it is held against.
        change: after - before with its interval; paired where there are pairs.
        better: which way is better; "" where neither is.
        about: one sentence that says what the figure means.
        margin: a change of at most this size is not worth telling.
    """

    figure: Figure
    before: Figure | None = None
    change: Figure | None = None
    better: Direction = ""
    about: str = ""
    margin: float = 0.0

    def named(self, name: str) -> Line:
        """The same under another name."""
        figures = {
            part: replace(figure, name=name)
            for part in ("figure", "before", "change") if (figure := getattr(self, part)) is not None
        }  # fmt: skip
        return replace(self, **figures)

    @property
    def verdict(self) -> Verdict:
        """What the change's interval says; "" without a change or a direction."""
        if self.change is None or not self.better:
            return ""
        value, found = self.change.value, interval(self.change)
        if found is None or not math.isfinite(value):
            return "unclear"
        low, high = found
        if (low > 0 and value > self.margin) or (high < 0 and value < -self.margin):
            return "better" if (low > 0) == (self.better == "higher") else "worse"
        within = -self.margin <= low and high <= self.margin
        return "same" if within and (self.margin > 0 or value == 0) else "unclear"

    @property
    def places(self) -> int | None:
        """How many decimals the numbers of this line are written with."""
        return places(self.change if self.change is not None else self.figure)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why not to trust its figures, each reason once."""
        return tuple(dict.fromkeys(f.warning for f in (self.figure, self.before, self.change) if f and f.warning))


def interval(figure: Figure) -> tuple[float, float] | None:
    """The 95% interval: as measured, or from the standard error; None where neither is known."""
    if figure.low is not None and figure.high is not None:
        return figure.low, figure.high
    if figure.error is not None:
        return figure.value - Z * figure.error, figure.value + Z * figure.error
    return None


def places(figure: Figure) -> int | None:
    """As many decimals as the interval makes worth reading; None where there is none (four digits are written)."""
    found = interval(figure)
    half = (found[1] - found[0]) / 2 if found else 0.0
    if not (math.isfinite(half) and half > 0):
        return None
    share = figure.unit == "share"
    return max(0, (0 if share else 1) - math.floor(math.log10(100 * half if share else half)))


def number(value: float, unit: str = "", digits: int | None = None, signed: bool = False) -> str:
    """A number without its unit: `84` of a share of 0.84, `+1.2`, `∞`."""
    if not math.isfinite(value):
        return "not known" if math.isnan(value) else "∞" if value > 0 else "−∞"
    value = 100 * value if unit == "share" else value
    size = f"{abs(value):.4g}" if digits is None or digits > _MOST else f"{abs(value):.{digits}f}"
    sign = ("−" if value < 0 else "+" if signed else "") if float(size) else ""
    return sign + size


def amount(figure: Figure, digits: int | None = None) -> str:
    """A value with its unit: `84%`, `31.2 dB`."""
    words = number(figure.value, figure.unit, places(figure) if digits is None else digits)
    if figure.unit == "share":
        return f"{words}%"
    return f"{words} {figure.unit}" if figure.unit else words


def shift(change: Figure, digits: int | None = None) -> str:
    """A change with its unit: `+81 points`, `−0.4 dB`."""
    words = number(change.value, change.unit, places(change) if digits is None else digits, signed=True)
    if change.unit == "share":
        return f"{words} point{'s' * (words[-2:] not in ('+1', '−1'))}"
    return f"{words} {change.unit}" if change.unit else words


def span(figure: Figure, signed: bool = False, digits: int | None = None) -> str:
    """The interval in words: `+75 to +87`; "" where there is none."""
    found = interval(figure)
    if found is None:
        return ""
    digits = places(figure) if digits is None else digits
    return " to ".join(number(end, figure.unit, digits, signed) for end in found)


def counts(figure: Figure) -> str:
    """`n = 200 against 500, 25 groups`."""
    words = f"n = {figure.n:,}" + ("" if figure.against is None else f" against {figure.against:,}")
    return words + ("" if figure.groups is None else f", {figure.groups:,} group{'s' * (figure.groups != 1)}")


def sentence(line: Line) -> str:
    """`Subject recognised: 3% before, 84% after: +81 points (+75 to +87). Better.`"""
    digits = line.places
    words = f"{line.figure.name}: "
    words += f"{amount(line.before, digits)} before, " if line.before else ""
    words += amount(line.figure, digits) + (" after" if line.before else "")
    if line.change is None:
        told = span(line.figure)
        return f"{words} ({told})." if told else f"{words}."
    told = span(line.change, signed=True)
    words += f": {shift(line.change)}" + (f" ({told})" if told else "")
    return f"{words}. {SAID[line.verdict]}" if line.verdict else f"{words}."


def in_order(lines: Iterable[Line]) -> list[Line]:
    """The better ones first, then the worse, the unclear, those that stayed, those only told; else as given."""
    return sorted(lines, key=lambda line: ORDER.index(line.verdict))
