"""Optimizers and learning-rate schedules: the libraries' own, by the names that people type."""

from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field

from ..config import Options, common
from ..errors import RequestError


class OptimOptions(Options):
    """How the parameters move."""

    panel: ClassVar[str] = "Optimisation"

    steps: int = common(500, "Optimizer steps.", ge=0)
    batch_size: int = common(4, "Pictures a process sees at once.", ge=1)
    accumulate: int = Field(1, ge=1, description="Micro-batches to an optimizer step.")
    learning_rate: float = common(1e-4, "Peak learning rate.", gt=0)
    lr_scheduler: Literal["constant", "linear", "cosine"] = Field("constant", description="Its course after warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rate rises from 0.")
    optimizer: Literal["adamw", "adamw8bit"] = Field("adamw", description="The optimizer.")
    weight_decay: float = Field(1e-2, ge=0, description="Decoupled weight decay.")
    clip: float = Field(1.0, ge=0, description="Largest norm of the gradient; 0 leaves it as it is.")
    snr_gamma: float = Field(0.0, ge=0, description="min-SNR weighting of the loss; 0 is off, 5 is usual.")
    ema: float = Field(0.0, ge=0, lt=1, description="Decay of an average of the weights, which is then exported.")


def optimizer(config: OptimOptions, groups: Iterable[dict]) -> torch.optim.Optimizer:
    """The optimizer for parameter groups.

    8-bit states are kept for every tensor: LoRA's are all smaller than the 4,096 elements under which bitsandbytes
    silently keeps 32 bits.
    """
    betas, decay = (0.9, 0.99), config.weight_decay
    if config.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            raise RequestError("--optimizer adamw8bit needs bitsandbytes: pip install bitsandbytes.") from None
        return AdamW8bit(groups, lr=config.learning_rate, betas=betas, weight_decay=decay, min_8bit_size=0)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, weight_decay=decay, fused=True)


def learning_rate(config: OptimOptions) -> Callable[[int], float]:
    """The learning rate's factor at each optimizer step (from 0): a pure function, so resuming needs no state."""
    from diffusers.optimization import get_scheduler

    name: str = config.lr_scheduler
    if name == "constant" and config.warmup_steps:
        name = "constant_with_warmup"
    probe = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    options = {} if name == "constant" else {"num_warmup_steps": config.warmup_steps}
    if name in ("linear", "cosine"):
        options["num_training_steps"] = config.steps
    return get_scheduler(name, probe, **options).lr_lambdas[0]
