"""The hashes in a file's header, of the tensors that will stand behind it, without a second copy of them in memory.

`modelspec.hash_sha256` and kohya's `sshs_model_hash` are SHA-256 of the file behind its header; `sshs_legacy_hash` is
the start of SHA-256 of the 64 KiB at the offset of 1 MiB in the file as it is with kohya's keys alone (both as
sd-scripts and sd-webui-additional-networks define them).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_LEGACY = 0x100000, 0x110000


def hashes(tensors: Mapping[str, Tensor], training: Mapping[str, str]) -> dict[str, str]:
    """The header's hashes: the first always, kohya's where there are keys of kohya's (`training`)."""
    entries = _entries(tensors)
    whole, legacy = hashlib.sha256(), hashlib.sha256()
    place = _fed(legacy, 0, _header(entries, training))
    for part in (_bytes(tensors[name]) for name in entries):
        whole.update(part)
        place = _fed(legacy, place, part)
    found = {"modelspec.hash_sha256": f"0x{whole.hexdigest()}"}
    if training:
        found |= {"sshs_model_hash": whole.hexdigest(), "sshs_legacy_hash": legacy.hexdigest()[:8]}
    return found


def _entries(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The header's words about the tensors in the order in which the library writes them, asked of the library."""
    from safetensors.torch import save

    empty = save({name: torch.empty(0, dtype=tensor.dtype) for name, tensor in tensors.items()})
    entries = json.loads(empty[8 : 8 + int.from_bytes(empty[:8], "little")])
    end = 0
    for name, entry in entries.items():
        begin, end = end, end + tensors[name].numel() * tensors[name].element_size()
        entry |= {"shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    return entries


def _header(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """A file's bytes before its tensors, as the library writes them."""
    said = {"__metadata__": dict(metadata)} if metadata else {}
    text = json.dumps({**said, **entries}, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _fed(digest: Any, place: int, part: bytes | memoryview) -> int:
    """Give a digest what of a part, which begins at `place` in the file, lies where the legacy hash looks."""
    first, last = (min(max(edge - place, 0), len(part)) for edge in _LEGACY)
    digest.update(part[first:last])
    return place + len(part)
