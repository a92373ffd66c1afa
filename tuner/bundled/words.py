"""The words of the picture world: what captions say of a scene, and every word that they may use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from . import emoji
from .backdrops import COLOURS, TEXTURES
from .styles import STYLES

if TYPE_CHECKING:
    from .world import Scene

SIZES = {"small": (0.38, 0.5), "large": (0.86, 0.96)}  # the subject's longer side, as a share of the canvas
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = {2: "two", 3: "three"}

PLAIN = (
    "{what} on a {where}",
    "a photo of {what} on a {where}",
    "a picture of {what}, {where}",
    "{what} in front of a {where}",
    "a {where} with {what}",
    "{what}, {where}",
    "{what}",
)
STYLED = (
    "a {style} of {what} on a {where}",
    "{what}, {style}, {where}",
    "a {style} picture of {what} on a {where}",
    "{what} in {style} style on a {where}",
    "a {where} with {what}, {style}",
    "a {style} of {what} in front of a {where}",
    "a {style} of {what}",
)
SKETCHED = (
    "a {style} of {what}",
    "{what}, {style}",
    "a {style} picture of {what}",
    "{what} in {style} style",
    "{style} of {what}",
    "{what} as a {style}",
    "a picture of {what}, {style}",
)
PHRASING_SHARE = (0.4, 0.11, 0.1, 0.11, 0.1, 0.1, 0.08)  # the last names no background

IRREGULAR = {
    "mouse": "mice", "sheep": "sheep", "snowman": "snowmen", "moai": "moai", "leaf": "leaves", "cactus": "cactuses",
    "octopus": "octopuses", "volcano": "volcanoes", "fish": "fishes",
}  # fmt: skip


def plural(name: str) -> str:
    """Two or three of a subject: `police car` gives `police cars`."""
    *before, last = name.split(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif re.search("[^aeiou]y$", last):
        last = last[:-1] + "ies"
    else:
        last += "es" if re.search("(s|x|z|ch|sh)$", last) else "s"
    return " ".join([*before, last])


def caption(it: Scene) -> str:
    """The words of a scene: `a SUBJECT on a COLOUR background`, with a style `a STYLE of a SUBJECT ...`.

    Phrasing 0 always says `a`; the others say `an` where English does.
    """
    if it.words:
        return it.words
    frames = PLAIN if it.style == "plain" else STYLED if it.background else SKETCHED
    where = " ".join(filter(None, (it.texture, it.background, "background")))
    said = frames[it.phrasing].format(what=_what(it), style=it.style, where=where)
    return re.sub(r"\ba (?=[aeio]|um)", "an ", said) if it.phrasing else said


def _what(it: Scene) -> str:
    name = " ".join(filter(None, (it.sized, it.subject if it.count == 1 else plural(it.subject))))
    first = f"{NUMBERS[it.count]} {name}" if it.count > 1 else f"a {name}"
    if not it.other:
        return first
    aside = it.phrasing in (1, 2) and it.relation in ("left of", "right of")
    return f"{first} {'to the ' * aside}{it.relation} a {it.other}"


def vocabulary() -> list[str]:
    """Every word that captions may use: the frames', the colours', the styles', all pictures' names and more."""
    from .mixture import PLANTED

    frame = "a an of on the to background in with and photo picture front style as"
    said = [frame, *COLOURS, *TEXTURES, *STYLES, *SIZES, *RELATIONS, *NUMBERS.values(), *emoji.table()]
    said += [plural(name) for name in emoji.KNOWN + emoji.HELD_OUT] + [it.words for it in PLANTED]
    return sorted({word for words in said for word in words.replace("-", " ").replace("’", "").split()})
