"""A folder of finished pictures, in any layout that training reads, decoded as they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import overload

from PIL import Image

from ..data.audit import caption
from ..data.examples import Example, listing
from ..data.options import FolderOptions
from ..data.pictures import BadPicture, decode
from ..errors import RequestError


class Gallery(Sequence[Image.Image]):
    """The pictures of a folder or of a data set of the Hub, RGB, in the order of their names.

    Attributes:
        captions: what each shows; "" where it does not say.
        names: what each is called: its path in the folder.

    Raises:
        RequestError: there is no such folder, it is empty, or a picture cannot be read (when it is asked for).
    """

    def __init__(self, options: FolderOptions, flag: str) -> None:
        found = listing(options)
        self._flag, self._examples = f"{flag} {options.images}", found.examples
        bad = [*found.refused, *found.left_out]
        if bad:
            raise RequestError(f"{self._flag}: {bad[0]}; a set is judged whole, so mend it or take it out.")
        self.captions = [caption(example, options) for example in found.examples]
        self.names = [_within(options.images, example.name) for example in found.examples]

    @classmethod
    def open(cls, folder: str, flag: str) -> Gallery:
        """The pictures of a folder that came by an option, which errors name."""
        try:
            return cls(FolderOptions(images=folder), flag)
        except RequestError as error:
            raise RequestError(str(error).replace("--images", flag, 1)) from None

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...
    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(index, slice):
            return [self._read(example) for example in self._examples[index]]
        return self._read(self._examples[index])

    def _read(self, example: Example) -> Image.Image:
        try:
            return decode(example.file.contents(example.name), example.name)
        except BadPicture as error:
            raise RequestError(f"{self._flag}: {error}; a set is judged whole, so mend it or take it out.") from None


def _within(folder: str, name: str) -> str:
    path = PurePath(name)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else name
