"""What a data set holds, before any picture is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .options import FolderOptions


class File(Protocol):
    """Where a picture's bytes are: a path, or a row of a table."""

    def contents(self, name: str) -> bytes:
        """The bytes. Raises BadPicture, with this name."""


@dataclass(frozen=True)
class OnDisk:
    """A file."""

    path: Path

    def contents(self, name: str) -> bytes:
        from .pictures import contents

        return contents(self.path, name)


@dataclass(frozen=True)
class Example:
    """A picture and what it is called.

    Attributes:
        name: for messages; it can be printed whatever the file is called.
        file: where its bytes are.
        caption: its own, "" where it has none.
        fallback: what its folder says it shows (kohya's `10_subject class`).
        repeats: how often an epoch visits it.
        captioned: whether there is a caption at all, empty or not.
        columns: other pictures in its row of a table, by the column's name.
    """

    name: str
    file: File
    caption: str = ""
    fallback: str = ""
    repeats: int = 1
    captioned: bool = False
    columns: Mapping[str, File] = field(default_factory=dict)


@dataclass
class Listing:
    """The examples of a data set, and what else is in it.

    Attributes:
        examples: in the order of their names.
        refused: sentences about what stops a training: captions and tables that cannot be read.
        left_out: clauses about pictures that may not be used, each with a name.
        masks: files that are masks of pictures.
        orphans: captions without a picture.
        unlisted: pictures that the metadata does not name.
        unread: pictures of kinds that are not read here.
        aside: folders that were left aside, each with the reason.
        repeated: kohya's folders and their repeats.
    """

    examples: list[Example] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)
    repeated: dict[str, int] = field(default_factory=dict)


def one_line(text: str) -> str:
    """A caption as one line, without space around it."""
    return " ".join(text.split())


def listing(options: FolderOptions) -> Listing:
    """The examples of `--images`: a folder in any of the usual layouts, or a data set of the Hub.

    Raises:
        RequestError: there is no such folder or data set, or it holds no picture.
    """
    from ..errors import RequestError
    from .folder import read_folder

    folder = Path(options.images).expanduser()
    if folder.is_dir():
        return read_folder(folder, options.follow_links, options.split)
    if folder.exists():
        raise RequestError(f"--images {options.images} is a file; name the folder that holds it.")
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", options.images) and not folder.parent.is_dir():
        from .hub import read_hub

        return read_hub(options.images, options.split)
    raise RequestError(f"--images {options.images}: there is no such folder; name a folder, or a data set of the Hub.")
