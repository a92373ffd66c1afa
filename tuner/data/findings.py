"""What a data set's owner should know: each point with the names it is about and what to do. Needs no torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .audit import Audit

if TYPE_CHECKING:
    from .glance import Reader

CROPPED = 0.25  # a picture that loses more than this share is worth a word

Grade = Literal["stops", "left out", "warning", "note"]
GRADES = ("stops", "left out", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """A point about a data set.

    Attributes:
        kind: one word or two for it, such as `unreadable`.
        grade: `stops` a training; pictures are `left out`; `warning`: trained on, and probably not as meant; `note`.
        about: a clause that says it of all, "3 pictures are ...".
        names: which, with what there is to say of each.
        remedy: a clause that says what to do; empty where nothing need be done.
    """

    kind: str
    grade: Grade
    about: str
    names: tuple[str, ...] = ()
    remedy: str = ""

    def sentence(self, most: int = 3) -> str:
        """The finding as a line in a log."""
        more = f" and {len(self.names) - most} more" if len(self.names) > most else ""
        listed = f": {', '.join(self.names[:most])}{more}" if self.names else ""
        return f"{self.about[:1].upper()}{self.about[1:]}{listed}."


def findings(found: Audit) -> list[Finding]:
    """All that can be said without decoding a picture, the gravest first."""
    listing = found.listing
    points = [
        Finding("unreadable caption", "stops", many(listing.refused, "caption or table", "cannot be read"),
                tuple(listing.refused), "mend each, or take it away"),
        Finding("left out", "left out", many(found.left_out, "picture", "cannot be used"), tuple(found.left_out),
                "mend each, or take it away"),
        *_shapes(found), *_captions(found),
        Finding("animated", "warning", many(_animated(found), "picture", "has more frames; the first is used",
                "have more frames; the first is used"), _animated(found), "save the frame that you mean as a picture"),
        Finding("orphan captions", "warning", many(listing.orphans, "caption", "has no picture", "have no picture"),
                tuple(listing.orphans), "name each as its picture is named"),
        Finding("not in metadata", "warning", many(listing.unlisted, "picture", "is not in the metadata, and not used",
                "are not in the metadata, and not used"), tuple(listing.unlisted), "add a row for each, if meant"),
        Finding("unread kinds", "warning", many(listing.unread, "file", "is of a kind that is not read",
                "are of a kind that is not read"), tuple(listing.unread), "save each as PNG or JPEG"),
        Finding("masks", "note", many(listing.masks, "mask", "is there; masks are not used yet",
                "are there; masks are not used yet"), tuple(listing.masks)),
        Finding("left aside", "note", many(listing.aside, "folder", "is left aside", "are left aside"),
                tuple(listing.aside)),
        *_repeats(found),
    ]  # fmt: skip
    return graded(points)


def graded(points: Iterable[Finding]) -> list[Finding]:
    """The points that are about something, the gravest first."""
    return sorted((point for point in points if point.names), key=lambda point: GRADES.index(point.grade))


def overlong(found: Audit, reader: Reader) -> list[Finding]:
    """Captions that the base does not read to their end, with what it does not read; nothing where there are none."""
    cut = reader.cut(found.captions())
    names = [
        f'{picture.name} ("... {cut[text]}")'
        for picture, text in zip(found.pictures, found.captions(), strict=True)
        if text in cut
    ]
    about = many(names, "caption", f"is longer than the {reader.length} tokens that the base reads; the end is cut",
                 f"are longer than the {reader.length} tokens that the base reads; the ends are cut")  # fmt: skip
    point = Finding("overlong caption", "warning", about, tuple(names), "say the important things first, or less")
    return [point] if names else []


def many(things: Sequence[object], noun: str, one: str, several: str = "") -> str:
    """`1 picture is`, `3 pictures are`."""
    return f"{len(things)} {noun}{'s' * (len(things) != 1)} {one if len(things) == 1 else several or one}"


def sizes_of(found: Audit) -> Counter[tuple[int, int]]:
    """The visits that each bucket gets in an epoch, the fullest first."""
    counts: Counter[tuple[int, int]] = Counter()
    for picture in found.pictures:
        counts[picture.place.bucket] += picture.example.repeats
    return Counter(dict(counts.most_common()))


def _animated(found: Audit) -> tuple[str, ...]:
    return tuple(picture.name for picture in found.pictures if picture.animated)


def _shapes(found: Audit) -> list[Finding]:
    enlarged, cropped = [], []
    for picture in found.pictures:
        place = picture.place
        (width, height), (wide, high) = place.original, place.bucket
        if place.enlarged:
            enlarged.append(f"{picture.name} ({width} x {height}, to {wide} x {high})")
        if place.lost > CROPPED:
            cropped.append(f"{picture.name} ({width} x {height}, loses {place.lost:.0%})")
    squares = "" if found.options.buckets else ", or leave --no-buckets out"
    return [
        Finding("enlarged", "warning", many(enlarged, "picture", "is smaller than the training size, and enlarged",
                "are smaller than the training size, and enlarged"), tuple(enlarged),
                "use larger ones, or a lower --resolution"),
        Finding("extreme shape", "warning", many(cropped, "picture", "is much longer than wide or wider than high",
                "are much longer than wide or wider than high"), tuple(cropped),
                f"crop each to what matters{squares}"),
    ]  # fmt: skip


def _captions(found: Audit) -> list[Finding]:
    """Pictures without a caption of their own, by what they train with instead."""
    without: dict[tuple[str, str], list[str]] = defaultdict(list)
    for picture, text in zip(found.pictures, found.captions(), strict=True):
        if not picture.example.caption:
            without["empty" if picture.example.captioned else "missing", text].append(picture.name)
    points = []
    for (state, text), names in sorted(without.items()):
        told = f'trains with "{text}"' if text else "trains with no words at all"
        said = {"empty": "an empty caption", "missing": "no caption"}[state]
        several = f"have {said}; each {told}"
        grade: Grade = "note" if text else "warning"
        remedies = {"empty": "write into it what is to be seen", "missing": "put NAME.txt beside each"}
        remedy = "" if text else f"{remedies[state]}, or give --caption"
        about = many(names, "picture", f"has {said} and {told}", several)
        points.append(Finding(f"{state} caption", grade, about, tuple(names), remedy))
    return points


def _repeats(found: Audit) -> list[Finding]:
    folders = found.listing.repeated
    names = tuple(f"{folder} ({count} times)" for folder, count in folders.items())
    about = many(names, "folder", "says by its name how often its pictures are visited",
                 "say by their names how often their pictures are visited")  # fmt: skip
    return [Finding("repeats", "note", about, names)]
