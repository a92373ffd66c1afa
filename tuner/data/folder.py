"""Folders of pictures as people have them: captions beside the pictures, metadata tables, kohya's repeats."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import RequestError
from .examples import Example, Listing, OnDisk, one_line
from .pictures import SUFFIXES, shown
from .tables import BadTable, metadata_of, rows

CAPTIONS = (".txt", ".caption")
UNREAD = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".tga", ".cr2", ".cr3", ".nef", ".arw", ".dng"}
MASK = re.compile(r"(\.mask|-masklabel)$", re.IGNORECASE)
REPEATS = re.compile(r"(\d{1,3})_(.+)")  # kohya's; four digits are a year
NOISE = {"__macosx", "@eadir", "thumbnails", "thumbs", "lost+found", "$recycle.bin"}
TRAIN = {"train", "training"}
OTHERS = {"test", "testing", "eval", "evaluation", "validation", "valid", "val", "dev"}
NO_CAPTIONS = {"readme", "license", "licence", "requirements", "classes", "metadata"}  # .txt files of other uses


def read_folder(folder: Path, follow_links: bool = False, split: str = "train") -> Listing:
    """The pictures of a folder and of the folders in it, in the order of their names.

    Captions come from the nearest `metadata.jsonl`, `.csv` or `.parquet` (`file_name`, and `text`, `caption` or
    `prompt`), else from NAME.txt or NAME.caption beside the picture, else from a folder `10_subject class`, which also
    says how often an epoch visits its pictures. Hidden files and masks are no pictures.

    Raises:
        RequestError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise RequestError(f"--images {folder}: there is no such folder.")
    found = Listing()
    files = list(_walk(folder, folder, follow_links, found, set()))
    if not any(file.suffix.lower() in SUFFIXES for file in files):
        from .hub import is_saved, read_saved

        if is_saved(folder, files):
            return read_saved(folder, split)
    tables = {table.parent: table for table in reversed(metadata_of(files))}
    used: set[Path] = set()
    by_name = {_plain(file): file for file in files}
    for home, table in sorted(tables.items()):
        found.examples += _listed(folder, home, table, by_name, follow_links, used, found)
    for file in files:
        kind, covered = file.suffix.lower(), any(home in file.parents for home in tables)
        if kind in UNREAD:
            found.unread.append(shown(file))
        elif kind in SUFFIXES and file not in used:
            if MASK.search(file.stem):
                found.masks.append(shown(file))
            elif covered:
                found.unlisted.append(shown(file))
            elif _allowed(file, folder, follow_links, found):
                found.examples += _example(file, folder, by_name, used, found)
    texts = (file for file in files if file.suffix.lower() in CAPTIONS and file not in used and not tables)
    found.orphans += [shown(file) for file in texts if file.stem.lower() not in NO_CAPTIONS]
    if not (found.examples or found.refused or found.left_out):
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise RequestError(f"--images {folder} holds no picture; put files of these kinds into it: {kinds}.")
    return found


def _walk(folder: Path, root: Path, follow: bool, found: Listing, seen: set[Path]) -> Iterator[Path]:
    """The files below a folder, folder by folder, hidden ones left out."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        found.left_out.append(f"{shown(folder)} cannot be read: {error.strerror}")
        return
    seen.add(_real(folder))
    folders = []
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if not os.path.isdir(path):
            yield path
        elif not entry.is_symlink() or follow:
            folders += [] if _real(path) in seen else [path]
        elif not _within(path, root):
            found.left_out.append(_outside(path))
    names = {path.name.lower() for path in folders}
    splits = folder == root and names & TRAIN and names & OTHERS
    for path in folders:
        if path.name.lower() in NOISE:
            found.aside.append(f"{shown(path)}: by its name it holds no pictures to train on")
        elif splits and path.name.lower() in OTHERS:
            found.aside.append(f"{shown(path)}: a split that is not for training")
        else:
            yield from _walk(path, root, follow, found, seen)


def _listed(
    root: Path, home: Path, table: Path, files: Mapping[str, Path], follow: bool, used: set[Path], found: Listing
) -> Iterator[Example]:
    """The examples that a metadata table names."""
    try:
        for row in rows(table):
            if row.fault:
                found.refused.append(f"{row.where}: {row.fault}.")
                continue
            path = _found(home / row.file_name, files)
            others = {column: _found(home / name, files) for column, name in row.files.items()}
            used.update([path, *others.values()])
            if _allowed(path, root, follow, found):
                columns = {column: OnDisk(file) for column, file in others.items() if follow or _within(file, root)}
                for example in _example(path, root, files, used, found, row.caption):
                    yield replace(example, columns=columns)
    except BadTable as error:
        found.refused.append(f"{error}.")


def _example(
    picture: Path, root: Path, files: Mapping[str, Path], used: set[Path], found: Listing, text: str | None = None
) -> Iterator[Example]:
    """A picture with its caption: `text`, else that in a file of its name, in small or capital letters."""
    repeats, words = _repeats(picture, root, found)
    stems = (picture.with_suffix(""), picture)  # NAME.txt; some programs write NAME.png.txt
    candidates = [files.get(_plain(Path(f"{stem}{kind}"))) for stem in stems for kind in CAPTIONS]
    file = next((file for file in candidates if file is not None and file.is_file()), None)
    if file is not None:
        used.add(file)
        text = _text(file, found) if text is None else text
    if repeats:
        yield Example(shown(picture), OnDisk(picture), one_line(text or ""), words, repeats, text is not None)


def _text(file: Path, found: Listing) -> str:
    """What a caption file says; where it cannot be read, that is found."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found.refused.append(f"{shown(file)} is not UTF-8 (byte {error.start}); save it as UTF-8.")
    except OSError as error:
        found.refused.append(f"{shown(file)} cannot be read ({error.strerror}); mend it or take it away.")
    return ""


def _repeats(path: Path, root: Path, found: Listing) -> tuple[int, str]:
    """What the nearest of kohya's folders above a file says: how often, and what it shows."""
    inside = path.parents[: path.parents.index(root)] if root in path.parents else ()
    for folder in inside:
        if match := REPEATS.fullmatch(folder.name):
            found.repeated[shown(folder)] = int(match[1])
            return int(match[1]), one_line(match[2])
    return 1, ""


def _allowed(path: Path, root: Path, follow: bool, found: Listing) -> bool:
    """Whether a file is in the folder, wherever links lead; if not it is left out, by name."""
    if follow or _within(path, root):
        return True
    found.left_out.append(_outside(path))
    return False


def _within(path: Path, root: Path) -> bool:
    return _real(path).is_relative_to(_real(root))


def _found(path: Path, files: Mapping[str, Path]) -> Path:
    """A file that a table names: failing that, the one whose name another system would write like this."""
    return path if os.path.exists(path) else files.get(_plain(path), path)


def _outside(path: Path) -> str:
    return f"{shown(path)} is a link out of the folder, which --follow-links would use"


def _real(path: Path) -> Path:
    """Where links lead; unlike `Path.resolve` it does not stumble over those that lead to themselves."""
    return Path(os.path.realpath(path))


def _plain(path: Path) -> str:
    """A path by which files are found: accents composed (macOS takes them apart), the suffix in small letters."""
    text = unicodedata.normalize("NFC", str(path))
    stem, dot, suffix = text.rpartition(".")
    return f"{stem}{dot}{suffix.lower()}"
