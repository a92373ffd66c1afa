"""Where and in which precision a run computes: accelerate's business, gathered here."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ..config import Options

if TYPE_CHECKING:
    from accelerate import Accelerator


class MemoryOptions(Options):
    """What the run computes with."""

    panel: ClassVar[str] = "Device and memory"

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Precision of the forward pass; auto: bf16 on a GPU that has it, fp32 on a CPU."
    )
    save_precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Precision of the exported file.")
    threads: int = Field(0, ge=0, description="CPU threads; 0 chooses by the load. Resuming keeps the run's own.")


def accelerator(config: MemoryOptions) -> Accelerator:
    """The accelerator of this process. `auto` is bf16 where a GPU computes it and fp32 on a CPU."""
    import torch
    from accelerate import Accelerator

    auto = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    wanted = {"auto": auto, "fp32": "no"}.get(config.precision, config.precision)
    return Accelerator(mixed_precision=wanted)
