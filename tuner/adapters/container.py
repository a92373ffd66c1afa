"""The safetensors container: its header read and checked by us, before the library maps the tensors.

Layout (github.com/huggingface/safetensors): 8 bytes, little-endian, the header's length; the header, JSON; the tensors'
bytes. The library refuses most malformed files itself; it takes names that stand twice, of which the last one wins, and
its words are for programmers. Nothing here imports torch: `tuner inspect` reads headers alone.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestError

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_LONGEST = 100_000_000  # bytes of a header: the library's own limit
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_WORDS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "F8_E4M3": "fp8", "F8_E5M2": "fp8"}  # others: their own names


@dataclass(frozen=True)
class Entry:
    """A tensor as the header has it: the library's name of its type, its shape, its first byte, the one behind it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Container:
    """A file's header.

    Attributes:
        entries: the tensors by name.
        metadata: the header's strings.
        size: the file's, in bytes.
        data: where the tensors' bytes begin.
    """

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    size: int
    data: int

    def precisions(self) -> dict[str, int]:
        """Numbers by precision, the most frequent first; without alphas, which stay in fp32."""
        found: Counter[str] = Counter()
        for name, entry in self.entries.items():
            if not name.endswith(".alpha"):
                found[_WORDS.get(entry.dtype, entry.dtype.lower())] += entry.count
        return dict(found.most_common())

    def scalars(self, path: Path, entries: Iterable[Entry]) -> list[float | None]:
        """Tensors of one number, read from their places in the file; None for what is not one fraction."""
        forms = {"F64": "<d", "F32": "<f", "F16": "<e", "BF16": "<f"}
        found: list[float | None] = []
        with open(path, "rb", buffering=0) as file:
            for entry in entries:
                if entry.dtype not in forms or entry.count != 1:
                    found.append(None)
                    continue
                file.seek(self.data + entry.begin)
                raw = (b"\0\0" if entry.dtype == "BF16" else b"") + file.read(entry.end - entry.begin)
                found.append(round(struct.unpack(forms[entry.dtype], raw)[0], 6))
        return found


def read_header(path: Path) -> Container:
    """Read a file's header and check it against the file, whose tensors are not touched.

    Raises:
        RequestError: it is not there, is a pickle, or is not a whole safetensors file.
    """
    if path.is_dir():
        raise RequestError(f"{path} is a folder; name the .safetensors file in it.")
    if path.suffix.lower() in PICKLES:
        raise RequestError(
            f"{path} is a pickle and may run code when it is read; convert it to .safetensors with a program you trust."
        )
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(8)
            _refuse_pickles(path, start)
            length = int.from_bytes(start, "little")
            if size < 8:
                raise _broken(path, "it is empty" if not size else f"it has only {size} bytes")
            if length > min(_LONGEST, size - 8):
                raise _broken(path, f"its header would have {length} bytes, the file has {size}")
            text = file.read(length)
    except FileNotFoundError:
        raise RequestError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}); look at its permissions.") from None
    header = _parsed(path, text)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken(path, "its `__metadata__` is not a table of strings")
    entries = {name: _entry(path, name, said) for name, said in header.items()}
    _check_places(path, entries, size - 8 - length)
    return Container(entries, metadata, size, 8 + length)


def _broken(path: Path, why: str) -> RequestError:
    return RequestError(f"{path} is not a whole safetensors file: {why}; fetch or write it again.")


def _refuse_pickles(path: Path, start: bytes) -> None:
    """torch.save makes zip archives, and once made bare pickles of protocol 2 upwards.

    The first bytes of such a pickle are also those of a header of some hundred bytes, but for what follows them.
    """
    bare = start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") and any(start[3:])
    if bare or start.startswith(b"PK\x03\x04"):
        raise RequestError(
            f"{path} is a pickle by another name and may run code when it is read; get a real .safetensors file."
        )


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    """The header's JSON."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise _broken(path, f"`{twice}` stands twice in its header")
        return found

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError:
        raise _broken(path, "its header is not text") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, RequestError):
            raise
        raise _broken(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _broken(path, "its header is not a table")
    return header


def _entry(path: Path, name: str, said: Any) -> Entry:
    """One tensor's line in the header."""
    fields: dict[str, Any] = said if isinstance(said, dict) else {}
    dtype: Any = fields.get("dtype")
    shape: Any = fields.get("shape")
    places: Any = fields.get("data_offsets")
    numbers = [*shape, *places] if isinstance(shape, list) and isinstance(places, list) else [None]
    whole = all(type(number) is int and 0 <= number < 2**63 for number in numbers)
    if not whole or not isinstance(dtype, str) or len(places) != 2:
        raise _broken(path, f"the header's words about `{name}` make no sense")
    if dtype not in _BITS:
        raise _broken(path, f"`{name}` is of an unknown type {dtype}")
    begin, end = places
    if 8 * (end - begin) != math.prod(shape) * _BITS[dtype]:
        raise _broken(path, f"`{name}` has {end - begin} bytes for {dtype} of shape {tuple(shape)}")
    return Entry(dtype, tuple(shape), begin, end)


def _check_places(path: Path, entries: Mapping[str, Entry], room: int) -> None:
    """The tensors must fill the rest of the file without gaps and without overlap."""
    last = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != last:
            why = "overlaps the tensor before it" if entry.begin < last else "leaves a gap before it"
            raise _broken(path, f"`{name}` {why}")
        last = entry.end
    if last > room:
        raise _broken(path, f"it ends {last - room} bytes too early")
    if last < room:
        raise _broken(path, f"{room - last} bytes follow its last tensor")
