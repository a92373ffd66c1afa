"""Conditions that are given, a picture for each picture: in a folder by their names, or in a column of the data set."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import RequestError
from .audit import Picture, digest
from .examples import Example, File, OnDisk
from .pictures import SUFFIXES, BadPicture, header, shown
from .rows import Row

COLUMN = "column:"  # how a condition begins that is a column


def in_folder(pictures: Sequence[Row], folder: Path, images: str) -> list[Row]:
    """The conditions in a folder, picture by picture: of the same path inside it, or of the same bare name.

    Raises:
        RequestError: it lacks one, or one has another size than its picture or cannot be read.
    """
    files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
    by_path = {_stem(file.relative_to(folder)): file for file in files}
    root, found, missing = Path(images).expanduser(), list[Row](), list[str]()
    for picture in pictures:
        assert isinstance(picture, Picture)
        if not isinstance(picture.example.file, OnDisk):
            raise RequestError(
                f"--condition {folder}: the pictures of --images {images} have no names to go by; name a column of the "
                f"data set, --condition {COLUMN}NAME."
            )
        path = picture.example.file.path
        inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
        file = by_path.get(_stem(inside)) or by_path.get(_stem(Path(path.name)))
        if file is None:
            missing.append(shown(inside))
        else:
            found.append(_like(picture, OnDisk(file), shown(file), str(folder)))
    if missing:
        more = f" nor {len(missing) - 1} others" if len(missing) > 1 else ""
        raise RequestError(f"--condition {folder} has no picture for {missing[0]}{more}; name each as its picture is.")
    return found


def in_column(pictures: Sequence[Row], condition: str, images: str) -> list[Row]:
    """The conditions in a column of the data set, `column:NAME`: those of the pictures' own rows.

    Raises:
        RequestError: there is no such column, a row has no picture in it, or one of another size or unreadable.
    """
    known, found = set[str](), list[Row]()
    for picture in pictures:
        assert isinstance(picture, Picture)
        known |= picture.example.columns.keys()
    name = condition.removeprefix(COLUMN).removesuffix("_file_name")
    if name not in known:
        has = f"its columns with pictures: {', '.join(sorted(known))}" if known else "no other column has pictures"
        raise RequestError(f"--condition {condition}: --images {images} has no such column; {has}.")
    for picture in pictures:
        assert isinstance(picture, Picture)
        file = picture.example.columns.get(name)
        if file is None:
            raise RequestError(f"--condition {condition}: the row of {picture.name} names no picture in the folder.")
        told = shown(file.path) if isinstance(file, OnDisk) else f"{picture.name}, {name}"
        found.append(_like(picture, file, told, condition))
    return found


@contextlib.contextmanager
def naming(condition: str) -> Iterator[None]:
    """A picture that cannot be read becomes a request that was wrong."""
    try:
        yield
    except BadPicture as error:
        raise RequestError(f"--condition {condition}: {error}.") from None


def _like(picture: Picture, file: File, name: str, condition: str) -> Picture:
    """A condition's file, to be cropped and scaled as its picture."""
    with naming(condition):
        data = file.contents(name)
        seen, wanted = header(data, name), picture.place.original
    if seen.size != wanted:
        sizes = "{} x {} pixels, its picture {} x {}".format(*seen.size, *wanted)
        raise RequestError(f"--condition {condition}: {name} has {sizes}; the two must have the same size.")
    return Picture(Example(name, file), digest(data), picture.place, seen.animated)


def _stem(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path.with_suffix("")))
