"""Where and in which precision a run computes: accelerate's business, gathered here."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ..config import Options
from ..errors import RequestError

if TYPE_CHECKING:
    from accelerate import Accelerator

PATIENCE = timedelta(hours=3)  # that processes wait for one another: the first one may draw pictures meanwhile


class MemoryOptions(Options):
    """What the run computes with."""

    panel: ClassVar[str] = "Device and memory"

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Precision of the forward pass; auto: bf16 on a GPU that has it, fp32 on a CPU."
    )
    quantize: Literal["none", "int8", "nf4"] = Field(
        "none", description="Hold the base's frozen U-Net in 8 or 4 bits (bitsandbytes)."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass: less memory, a third slower."
    )
    save_precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Precision of the exported file.")
    threads: int = Field(0, ge=0, description="CPU threads; 0 chooses by the load. Resuming keeps the run's own.")


def accelerator(config: MemoryOptions) -> Accelerator:
    """The accelerator of this process. `auto` is bf16 where a GPU computes it and fp32 on a CPU.

    Raises:
        RequestError: this machine does not compute in the precision that is asked for.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    gpu = torch.accelerator.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true"
    if config.precision == "fp16" and not gpu:
        raise RequestError("--precision fp16 needs a GPU; on a CPU use --precision bf16 or fp32.")
    auto = "bf16" if gpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    wanted = {"auto": auto, "fp32": "no"}.get(config.precision, config.precision)
    group = InitProcessGroupKwargs(timeout=PATIENCE)
    wrapping = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    AcceleratorState._reset_state()  # it would keep the precision of the process's first run for all later ones
    return Accelerator(mixed_precision=wanted, cpu=not gpu, kwargs_handlers=[group, wrapping])
