"""Adapter files opened, not loaded: headers are read and checked at once, tensors module by module when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RequestError
from .artifact import check_finite
from .changes import Change, LowRank
from .container import Container, Entry, read_header
from .describe import Description, describe
from .fitting import Shape, fault, missing, on_columns, weight_shape
from .peft_files import adopted
from .reading import change_of, change_on
from .roles import PEFT, grouped, naming_in, settings_in, without_alpha

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Source:
    """An adapter file that changes modules, of either naming.

    Args:
        path: the file.
        held: its header, where that has been read.

    Attributes:
        path: the file.
        metadata: its header's strings; those of a file of peft's are made from the configuration beside it.
        naming: `kohya` or `diffusers`.
        of_peft: whether it is a file of peft's `save_pretrained`; its names are then read as diffusers' are.
        modules: as the file spells them -> role -> the tensor's name.

    Raises:
        RequestError: it is not a whole safetensors file, or not the whole of an adapter.
    """

    def __init__(self, path: Path, held: Container | None = None) -> None:
        from safetensors import safe_open

        self.path, self._held = path, held or read_header(path)
        self.metadata: Mapping[str, str] = self._held.metadata
        keys = {name: name for name in self._held.entries}
        self.of_peft = bool(keys) and all(name.startswith(PEFT) for name in keys)
        if self.of_peft:
            keys, self.metadata = adopted(path, keys)
        self.naming = naming_in(keys, path)
        self.modules, problems = grouped({name: keys[name] for name in keys}, self.naming)
        self._settings, trouble = settings_in(self.metadata) if self.naming == "diffusers" else ({}, [])
        problems += trouble + (without_alpha(self.modules) if self.naming == "kohya" else [])
        self._shapes: dict[str, tuple[Shape, bool]] = {}
        problems += [clause for module in self.modules if (clause := self._measured(module))]
        if problems:
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            raise RequestError(f"{path} cannot be taken whole: {problems[0]}{more}; nothing was written.")
        self._file: Any = safe_open(path, "pt", backend="pread")  # no pages of the file stay in memory

    def _measured(self, module: str) -> str:
        """Note the shape of the weight that a module changes; a clause where its tensors are not whole."""
        entries = self._held.entries
        shapes = {role: entries[key].shape for role, key in self.modules[module].items()}
        whole = not missing(shapes)
        shape, sure = weight_shape(shapes) if whole else ((), False)
        if whole and len(shape) < 2:
            return f"`{module}` has matrices that do not fit together"
        self._shapes[module] = shape, sure
        return fault(module, shapes, shape) or ""

    @cached_property
    def described(self) -> Description:
        """What the header tells."""
        return describe(self.path, self._held)

    @property
    def family(self) -> str:
        """`sd1`, `sd2`, `sdxl`, or empty where nothing tells it."""
        return self.described.family

    @property
    def precision(self) -> torch.dtype:
        """That of its values: the widest, alphas left out; eight-bit ones count as halves."""
        found = {entry.dtype for name, entry in self._held.entries.items() if not name.endswith(".alpha")}
        return widest(_DTYPES.get(name, torch.float16) for name in found)

    def shape(self, module: str, kernel: Shape = ()) -> Shape:
        """The shape of the weight that a module changes. `kernel`: the layer's, where it is known to have one."""
        shape, sure = self._shapes[module]
        if sure or not kernel:
            return shape
        return (shape[0], shape[1] // torch.Size(kernel).numel(), *kernel)

    def sure(self, module: str) -> bool:
        """Whether the file itself tells the shape."""
        return self._shapes[module][1]

    def entry(self, key: str) -> Entry:
        """What the header says of a tensor."""
        return self._held.entries[key]

    def digest(self) -> str:
        """SHA-256 of all that stands behind the header."""
        with open(self.path, "rb") as file:
            file.seek(self._held.data)
            return hashlib.file_digest(file, "sha256").hexdigest()

    def roles(self, module: str) -> set[str]:
        """What tensors a module has: `down`, `up`, `alpha`, `hada_w1_a`, ..."""
        return set(self.modules[module])

    def on_columns(self, module: str, shape: Shape) -> bool:
        """Whether it is a DoRA over columns of a weight of this shape."""
        key = self.modules[module].get("dora_scale")
        return key is not None and on_columns(self._held.entries[key].shape, shape)

    def group(self, module: str) -> dict[str, Tensor]:
        """A module's tensors by role, read now."""
        found = {role: self._file.get_tensor(key) for role, key in self.modules[module].items()}
        for role, tensor in found.items():
            check_finite(tensor, self.modules[module][role], self.path)
        return found

    def settings(self, module: str) -> tuple[Mapping[str, Any], str]:
        """peft's settings of a module's network, and the module's path there."""
        network, _, path = module.partition(".")
        live = path.removeprefix("text_model.") if network == "text_encoder" else path
        return self._settings.get(network, {}), live

    def change(self, module: str, shape: Shape, weight_in_base: Callable[[], Tensor]) -> Change:
        """What it does to a module, read now. `weight_in_base` gives the weight itself, which DoRA alone needs."""
        config, path = self.settings(module) if self.naming == "diffusers" else ({}, "")
        return change_on(self.group(module), config, path, shape, self.metadata, weight_in_base)

    def outline(self, module: str) -> LowRank | None:
        """A low-rank change without its values: ranks and scale. None for other kinds."""
        if not self.roles(module) >= {"down", "up"}:
            return None
        held = self._held.entries
        group = {role: torch.empty(held[key].shape, device="meta") for role, key in self.modules[module].items()}
        if "alpha" in group:
            group["alpha"] = self._file.get_tensor(self.modules[module]["alpha"])
        config, path = self.settings(module) if self.naming == "diffusers" else ({}, "")
        found = change_of({role: group[role] for role in group.keys() & {"down", "up", "mid", "alpha"}}, config, path)
        return found if isinstance(found, LowRank) else None

    def close(self) -> None:
        """Let go of the file."""
        self._file.__exit__(None, None, None)


def widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The least precision that holds all of these, fp32 at most."""
    return min(reduce(torch.promote_types, dtypes), torch.float32, key=lambda dtype: dtype.itemsize)


@contextmanager
def opened(paths: Sequence[Path], held: Mapping[Path, Container] | None = None) -> Iterator[list[Source]]:
    """Several files, each opened once and closed in the end. `held`: headers that have been read."""
    found: dict[Path, Source] = {}
    try:
        for path in paths:
            if path not in found:
                found[path] = Source(path, (held or {}).get(path))
        yield [found[path] for path in paths]
    finally:
        for source in found.values():
            source.close()
