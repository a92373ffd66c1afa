"""Data sets of the Hugging Face Hub by their id, and data sets that `datasets` has saved in a folder.

Pictures are taken as the bytes that they came in: they go through the same door as files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestError
from .examples import Example, Listing, one_line
from .pictures import BadPicture, contents, shown
from .tables import COLUMNS, caption_in

SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves
SHARDS = (".parquet", ".arrow")


@dataclass(frozen=True)
class Cell:
    """A picture in a table of `datasets`."""

    table: Any
    row: int
    column: str

    def contents(self, name: str) -> bytes:
        cell = self.table[self.row][self.column] or {}
        if cell.get("bytes") is not None:
            return cell["bytes"]
        if not cell.get("path"):
            raise BadPicture(f"{name} cannot be read: its row holds no picture")
        return contents(Path(cell["path"]), name)


def is_saved(folder: Path, files: Sequence[Path]) -> bool:
    """Whether a folder without picture files is a saved data set: Arrow or Parquet tables that hold the pictures."""
    return any((folder / name).is_file() for name in SAVED) or any(file.suffix in SHARDS for file in files)


def read_saved(folder: Path, split: str) -> Listing:
    """The examples of a data set that was saved in a folder, by `save_to_disk` or as Parquet tables."""
    import datasets

    def load() -> Any:
        if not any((folder / name).is_file() for name in SAVED):
            return datasets.load_dataset(str(folder), split=split)
        loaded = datasets.load_from_disk(str(folder))
        return loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded

    return _examples(_loaded(load, str(folder), split), str(folder))


def read_hub(name: str, split: str) -> Listing:
    """The examples of a data set of the Hub, from the local cache where it is there and the Hub is not to be asked."""
    import datasets

    return _examples(_loaded(lambda: datasets.load_dataset(name, split=split), name, split), name)


def _loaded(load: Any, images: str, split: str) -> Any:
    """What `load` gives. `datasets` and what it calls raise errors of many kinds; each becomes a sentence."""
    import datasets

    datasets.disable_progress_bars()
    try:
        return load()
    except Exception as error:
        kind, reason = type(error).__name__, " ".join(str(error).split())[:200].rstrip(".")
        if isinstance(error, KeyError) or "Unknown split" in reason or "split" in reason.lower()[:20]:
            sentence = f'it has no split "{split}"; name another by --split ({reason})'
        elif "NotFound" in kind or "doesn't exist" in reason:
            sentence = "there is no such folder here, and no such data set on the Hub that you may read"
        elif isinstance(error, ConnectionError | TimeoutError) or "Offline" in kind or "ffline" in reason:
            sentence = "there is no such folder here, it is not in the cache, and the Hub cannot be reached"
        else:
            sentence = f"the data set could not be loaded ({kind}: {reason})"
        raise RequestError(f"--images {images}: {sentence}.") from error


def _examples(table: Any, images: str) -> Listing:
    """The rows of a table of `datasets` as examples."""
    import datasets

    kinds = {name: feature for name, feature in table.features.items() if isinstance(feature, datasets.Image)}
    column = "image" if "image" in kinds else next(iter(kinds), "")
    if not column or (column != "image" and len(kinds) > 1):
        has = ", ".join(table.column_names)
        raise RequestError(f"--images {images} has no column `image` with pictures, only {has}; rename its column.")
    for name in kinds:
        table = table.cast_column(name, datasets.Image(decode=False))
    others = [name for name in kinds if name != column]
    captions: list[str | None] = [None] * len(table)
    present = [name for name in COLUMNS if name in table.column_names]
    if present:
        captions = [caption_in(row) for row in table.select_columns(present)]
    found = Listing()
    for row, caption in enumerate(captions):
        name = shown(f"{images}, row {row}")
        columns = {other: Cell(table, row, other) for other in others}
        file, text = Cell(table, row, column), one_line(caption or "")
        found.examples.append(Example(name, file, text, captioned=caption is not None, columns=columns))
    if not found.examples:
        raise RequestError(f"--images {images} holds no picture; name another data set, or another --split.")
    return found
