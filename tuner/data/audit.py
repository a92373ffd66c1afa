"""What of a data set can be used, and how: read by training and by `tuner check` alike. Nothing is decoded yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import RequestError, RunError
from .buckets import Placement, placement
from .examples import Example, Listing, listing
from .options import FolderOptions
from .pictures import BadPicture, decode, fitted, header

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """A picture that can be used, as far as its header tells.

    Attributes:
        example: what it is called and where it is.
        digest: of its bytes (BLAKE2b, hexadecimal).
        place: how it comes to its bucket.
        animated: whether it has more frames than the first, which is the one that is used.
    """

    example: Example
    digest: str
    place: Placement
    animated: bool

    @property
    def name(self) -> str:
        return self.example.name

    @property
    def key(self) -> str:
        """What its pixels depend on."""
        return f"{self.digest} {self.place}"

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of its pixels."""
        return self.place.bucket[1], self.place.bucket[0]

    def decoded(self) -> Image.Image:
        """The whole picture. Raises BadPicture."""
        data = self.example.file.contents(self.name)
        if digest(data) != self.digest:
            raise BadPicture(f"{self.name} cannot be read: it was changed just now")
        return decode(data, self.name)

    def read(self) -> Tensor:
        """The pixels that train: uint8, (3, H, W). Raises BadPicture."""
        import torch

        return torch.from_numpy(fitted(self.decoded(), self.place))


@dataclass(frozen=True)
class Audit:
    """A data set, picture by picture.

    Attributes:
        options: what it was read with.
        listing: what it holds.
        pictures: those that can be used.
        left_out: a clause for each that cannot.
    """

    options: FolderOptions
    listing: Listing
    pictures: list[Picture]
    left_out: list[str]

    def captions(self) -> list[str]:
        """What each picture trains with."""
        return [caption(picture.example, self.options) for picture in self.pictures]


def audit(
    options: FolderOptions, side: int, unit: int, told: Callable[[int, int], None] = lambda done, total: None
) -> Audit:
    """Read a data set: every picture's bytes and header.

    Args:
        side: the training resolution in pixels.
        unit: what a picture's sides must be multiples of.
        told: hears how many pictures of how many are read.

    Raises:
        RequestError: there is no such data set, or it holds no picture, or the side does not suit the base.
    """
    if not options.images:
        raise RequestError("--images is missing; name a folder of pictures.")
    if side % unit:
        raise RequestError(f"--resolution {side} does not suit this base; use a multiple of {unit}.")
    found = listing(options)
    pictures, left_out = [], list(found.left_out)
    for number, example in enumerate(found.examples):
        try:
            data = example.file.contents(example.name)
            seen = header(data, example.name)
            place = placement(seen.size, side, unit, not options.buckets)
            pictures.append(Picture(example, digest(data), place, seen.animated))
        except BadPicture as error:
            left_out.append(str(error))
        except ValueError as error:
            left_out.append(f"{example.name} is of no use: {error}")
        told(number + 1, len(found.examples))
    return Audit(options, found, pictures, left_out)


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def caption(example: Example, options: FolderOptions) -> str:
    """What a picture trains with: its own caption, else its folder's words, else --caption; the trigger before it."""
    return " ".join(filter(None, (options.trigger, example.caption or example.fallback or options.caption)))


def check_enough(used: int, left_out: Sequence[str], images: str = "") -> None:
    """Refuse to go on with too few pictures.

    Raises:
        RequestError: none is left.
        RunError: more than max(3, 1%) are left out.
    """
    total = used + len(left_out)
    if not used:
        first = f"; the first: {left_out[0]}" if left_out else ""
        raise RequestError(f"--images {images}".rstrip() + f" holds no picture that can be used{first}.")
    if len(left_out) > max(3, total // 100):
        listed = "; ".join(left_out[:5])
        raise RunError(f"{len(left_out)} of {total} pictures cannot be used, too many to go on: {listed}.")


def check_usable(found: Audit) -> None:
    """What `check_enough` asks, and that every caption could be read. Raises RequestError, RunError."""
    if found.listing.refused:
        raise RequestError(found.listing.refused[0])
    check_enough(len(found.pictures), found.left_out, found.options.images)
