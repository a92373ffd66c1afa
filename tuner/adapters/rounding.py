"""Changes cast to the precision of a file, and what that costs."""

from __future__ import annotations

import math

import torch

from ..errors import RequestError
from .changes import Change

_WORDS = {torch.float16: "fp16", torch.bfloat16: "bf16"}
_EXACT = ("alpha", "dora_scale")  # stay in fp32


class Rounding:
    """Casts changes and keeps account of what is lost.

    Args:
        dtype: the file's.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype, self._lost, self._size = dtype, 0.0, 0.0

    @property
    def error(self) -> float:
        """The relative error of the matrices that it rounds, over all changes so far."""
        return (self._lost / self._size) ** 0.5 if self._size else 0.0

    def rounded(self, change: Change, module: str) -> Change:
        """The change in the file's precision. Raises RequestError where its values do not fit."""
        cast = change.to(self._dtype)
        if self._dtype == torch.float32:
            return cast
        before, after = change.tensors(), cast.tensors()
        for role in before.keys() - set(_EXACT):
            if after[role].dtype == before[role].dtype:
                continue
            wide = before[role].float().flatten()
            off = after[role].float().flatten().sub_(wide)
            lost = float(off.dot(off))
            if not math.isfinite(lost):
                raise RequestError(
                    f"The values of {module} do not fit {_WORDS[self._dtype]}; write --save-precision bf16 or fp32."
                )
            self._lost += lost
            self._size += float(wide.dot(wide))
        return cast
