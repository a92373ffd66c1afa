"""Pictures that are the same, or nearly: a 64-bit difference hash and a thumbnail of the colours.

The difference hash: Krawetz 2013, "Kind of like that". It says where a picture gets brighter from left to right, so
scaling, another format and stronger compression change a few bits; the thumbnail tells apart what only has one outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

STEP = 2  # levels of brightness that count as a difference: less is noise
BITS = 6  # that may differ
COLOUR = 10.0  # levels that the thumbnails may differ by, on the mean


@dataclass(frozen=True)
class Look:
    """What a picture looks like.

    Attributes:
        bits: the difference hash.
        colours: a thumbnail, 8 x 8 x 3.
    """

    bits: np.uint64
    colours: np.ndarray

    @classmethod
    def of(cls, picture: Image.Image) -> Look:
        """That of an RGB picture."""
        grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
        bits = np.packbits(grey[:, 1:] - grey[:, :-1] > STEP).view(np.uint64)[0]
        return cls(bits, np.asarray(picture.resize((8, 8), Image.Resampling.BOX), np.float32).ravel())


def nearly_equal(looks: Sequence[Look]) -> list[list[int]]:
    """The groups, of two and more, of pictures that look nearly equal, by their numbers."""
    if not looks:
        return []
    bits, colours = np.stack([look.bits for look in looks]), np.stack([look.colours for look in looks])
    group = np.arange(len(looks))
    for i in range(len(looks) - 1):
        close = np.flatnonzero(np.bitwise_count(bits[i + 1 :] ^ bits[i]) <= BITS) + i + 1
        close = close[np.abs(colours[close] - colours[i]).mean(1) <= COLOUR]
        for j in close:
            group[group == group[j]] = group[i]
    return _groups(group)


def equal(digests: Sequence[str]) -> list[list[int]]:
    """The groups, of two and more, of files with the same bytes."""
    return _groups(np.unique(np.array(digests, dtype=str), return_inverse=True)[1])


def _groups(labels: np.ndarray) -> list[list[int]]:
    members: dict[int, list[int]] = {}
    for number, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(number)
    return [group for group in members.values() if len(group) > 1]
