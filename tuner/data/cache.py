"""What was encoded once and need not be again, by content: a changed picture, caption or model has another key.

CACHE/latents|prompts|drawn|conditions/KEY[:2]/KEY.safetensors, each with a checksum of its tensors. An entry is
written beside its place and then renamed; it is not forced to the disk, so a crash may tear it: then its checksum
fails, and it is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

Kind = Literal["latents", "prompts", "drawn", "conditions"]


class Cache:
    """A folder of tensors by what they were made from.

    Attributes:
        shared: whether it is to be used at all; all processes of a run agree on it.
        works: whether entries can be written (until the disk is full).
        notes: what the user should know, each said once.
    """

    def __init__(self, folder: Path | None = None, writes: bool = True) -> None:
        self._folder = folder
        self.shared = folder is not None and writes
        self.works = self.shared
        self.notes: list[str] = []

    @classmethod
    def of(cls, config: Any) -> Cache:
        """The cache that the options name. A dry run reads it and writes nothing."""
        return cls(folder_of(config.cache), not getattr(config, "dry_run", False))

    def get(self, kind: Kind, key: str) -> dict[str, Tensor] | None:
        """An entry; None where there is none, or it is not whole."""
        if self._folder is None:
            return None
        file = self._file(kind, key)
        try:
            return _checked(file.read_bytes())
        except OSError:  # there is none, or it cannot be read
            return None
        except Exception:  # whatever a torn file can make of a parser
            self._say(f"An entry of the cache in {self._folder} was damaged; it is made anew.")
            with contextlib.suppress(OSError):
                if self.shared:
                    file.unlink()
            return None

    def has(self, kind: Kind, key: str) -> bool:
        """Whether there is an entry, whole or not."""
        return self._folder is not None and self._file(kind, key).is_file()

    def put(self, kind: Kind, key: str, tensors: Mapping[str, Tensor]) -> bool:
        """Write an entry; whether it is there now. A disk that is full means going on without."""
        if not self.works:
            return False
        file = self._file(kind, key)
        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(_packed(tensors))
            part.replace(file)
        except OSError as error:
            self.works = False
            self._say(f"The cache in {self._folder} cannot be written ({error.strerror}); going on without it.")
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        return self.works

    def _file(self, kind: Kind, key: str) -> Path:
        assert self._folder is not None
        return self._folder / kind / key[:2] / f"{key}.safetensors"

    def _say(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def folder_of(wanted: str) -> Path | None:
    """The folder that `--cache` means: `none` is none, and nothing is $TUNER_CACHE or the user's cache folder."""
    if wanted == "none":
        return None
    if wanted or (wanted := os.environ.get("TUNER_CACHE", "")):
        return None if wanted == "none" else Path(wanted).expanduser()
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "tuner"


def key_of(*parts: object) -> str:
    """A key from all that an entry depends on."""
    return hashlib.blake2b(json.dumps([str(part) for part in parts]).encode(), digest_size=20).hexdigest()


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(plain, {"checksum": _checksum(save(plain))})


def _checked(data: bytes) -> dict[str, Tensor]:
    """The tensors of an entry. Raises an error of any kind where it is not whole."""
    from safetensors.torch import load

    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if header["__metadata__"]["checksum"] != _checksum(data):
        raise ValueError("checksum")
    return load(data)


def _checksum(data: bytes) -> str:
    """Of the tensors in a safetensors file, without its header."""
    start = 8 + int.from_bytes(data[:8], "little")
    return hashlib.blake2b(memoryview(data)[start:], digest_size=16).hexdigest()
