"""Optimizers and learning-rate schedules: the libraries' own, by the names that people type."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..config import Options, common
from ..errors import RequestError

BETAS = 0.9, 0.99
PREFERRED: Mapping[str, Mapping[str, Any]] = {"prodigy": {"learning_rate": 1.0}}
"""What goes with an optimizer where the user says nothing: prodigy finds a rate, and multiplies it by this one."""


class OptimOptions(Options):
    """How the parameters move."""

    panel: ClassVar[str] = "Optimisation"

    steps: int = common(500, "Optimizer steps.", ge=0)
    batch_size: int = common(4, "Pictures a process sees at once.", ge=1)
    accumulate: int = Field(1, ge=1, description="Micro-batches to an optimizer step.")
    learning_rate: float = common(1e-4, "Peak learning rate; prodigy finds its own and multiplies it by this.", gt=0)
    lr_scheduler: Literal["constant", "linear", "cosine"] = Field("constant", description="Its course after warm-up.")
    lr_cycles: int = Field(1, ge=1, description="How often the cosine starts again at the peak, and ends at 0.")
    warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rate rises from 0.")
    optimizer: Literal["adamw", "adamw8bit", "paged-adamw8bit", "lion8bit", "adafactor", "prodigy", "muon"] = Field(
        "adamw", description="The optimizer."
    )
    weight_decay: float = Field(1e-2, ge=0, description="Decoupled weight decay.")
    clip: float = Field(1.0, ge=0, description="Largest norm of the gradient; 0 leaves it as it is.")
    ema: float = Field(0.0, ge=0, lt=1, description="Decay of an average of the weights, which is then exported.")


def optimizer(config: OptimOptions, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer for parameter groups.

    8-bit states are kept for every tensor: LoRA's are all smaller than the 4,096 elements under which bitsandbytes
    silently keeps 32 bits. Adafactor (Shazeer & Stern 2018, arXiv:1804.04235) takes the learning rate as it is given,
    without its own schedule and without scaling by the parameters, which would hold back LoRA's zeros. Prodigy
    (Mishchenko & Defazio 2023, arXiv:2306.06101). Muon is ours, for training whole networks (see `muon.Muon`).

    Raises:
        RequestError: its package is not installed, or it cannot take these groups.
    """
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer.endswith("8bit"):
        return _eight_bit(config.optimizer, groups, lr=rate, betas=BETAS, weight_decay=decay, min_8bit_size=0)
    if config.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, lr=rate, weight_decay=decay, scale_parameter=False, relative_step=False)
    if config.optimizer == "prodigy":
        return _prodigy(groups, lr=rate, betas=BETAS, weight_decay=decay)
    if config.optimizer == "muon":
        from .muon import Muon

        return Muon(groups, lr=rate, betas=BETAS, weight_decay=decay)
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS, weight_decay=decay, fused=True)


def _eight_bit(name: str, groups: list[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
    try:
        from bitsandbytes import optim
    except ImportError:
        raise RequestError(f"--optimizer {name} needs bitsandbytes: pip install bitsandbytes.") from None
    # on a CPU there is nothing to page to: bitsandbytes warns, and keeps the same bits where they are
    warnings.filterwarnings("ignore", "Paged optimizers are not supported on CPU")
    for parameter in (p for group in groups for p in group["params"]):
        parameter.data = parameter.data.contiguous()  # its first step would, and a resumed run is to begin like that
    kinds = {"adamw8bit": optim.AdamW8bit, "paged-adamw8bit": optim.PagedAdamW8bit, "lion8bit": optim.Lion8bit}
    return kinds[name](groups, **options)


def _prodigy(groups: list[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
    try:
        from prodigyopt import Prodigy
    except ImportError:
        raise RequestError("--optimizer prodigy needs prodigyopt: pip install prodigyopt.") from None
    if len({group.get("lr", options["lr"]) for group in groups}) > 1:
        raise RequestError("--optimizer prodigy finds one learning rate for all; leave out the text encoders' own.")
    # bias correction and the safeguard are what its authors advise for diffusion models
    return Prodigy(groups, **options, use_bias_correction=True, safeguard_warmup=True)


def state_bytes(name: str, parameters: Iterable[Tensor]) -> int:
    """What an optimizer will remember of fp32 parameters, in bytes, but for some numbers a tensor."""
    block = 256  # bitsandbytes' 8-bit states have a 32-bit scale for so many elements
    total = 0
    for p in parameters:
        one = p.numel() + 4 * math.ceil(p.numel() / block)
        factors = p.numel() // p.shape[-1] + p.numel() // p.shape[-2] if p.ndim > 1 else p.numel()
        sizes = {"adamw": 8 * p.numel(), "lion8bit": one, "adafactor": 4 * factors, "prodigy": 16 * p.numel(),
                 "muon": (4 if p.ndim > 1 else 8) * p.numel()}  # fmt: skip
        total += sizes.get(name, 2 * one)
    return total


def learning_rate(config: OptimOptions) -> Callable[[int], float]:
    """The learning rate's factor at each optimizer step (from 0): a pure function, so resuming needs no state."""
    from diffusers.optimization import get_scheduler

    name: str = config.lr_scheduler
    if name == "constant" and config.warmup_steps:
        name = "constant_with_warmup"
    probe = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    options: dict[str, int] = {} if name == "constant" else {"num_warmup_steps": config.warmup_steps}
    if name in ("linear", "cosine"):
        options["num_training_steps"] = config.steps
    if name == "cosine" and config.lr_cycles > 1:
        name, options["num_cycles"] = "cosine_with_restarts", config.lr_cycles
    return get_scheduler(name, probe, **options).lr_lambdas[0]
