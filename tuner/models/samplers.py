"""The samplers by the names that people type. The schedulers are diffusers' own."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from ..errors import RequestError

if TYPE_CHECKING:
    import torch

# name -> (diffusers class, what differs from the base's own scheduler configuration)
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {"clip_sample": False}),
    "ddim-trailing": (
        "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "trailing"},
    ),
}  # fmt: skip


def scheduler(name: str, config: dict[str, Any]) -> Any:
    """A fresh diffusers scheduler with the base's noise schedule.

    Raises:
        RequestError: there is no sampler of that name.
    """
    import diffusers

    if name not in SAMPLERS:
        raise RequestError(f"--sampler {name} is not known; choose from {', '.join(SAMPLERS)}.")
    kind, changes = SAMPLERS[name]
    return getattr(diffusers, kind).from_config({**config, **changes})


def taken(steps: int, strength: float = 1.0) -> int:
    """How many of the steps are taken from a picture that is left so far: at least one."""
    return max(1, min(steps, int(steps * strength + 1e-9)))


def schedule(scheduler: Any, steps: int, strength: float, device: torch.device) -> Any:
    """Set a scheduler to its timesteps -> those that are taken, (taken(steps, strength),), from high to low noise.

    Raises:
        RequestError: the sampler does not take so many steps.
    """
    most = known = scheduler.config.num_train_timesteps
    if "original_inference_steps" in inspect.signature(scheduler.set_timesteps).parameters:
        most = scheduler.config.original_inference_steps  # of LCM: it takes some of its teacher's steps
        if most > known:
            raise RequestError(f"Something was distilled from {most} steps, and this base has {known}; leave it out.")
    if steps > most:
        raise RequestError(f"--steps {steps} is more than this sampler takes on this base; use at most {most}.")
    scheduler.set_timesteps(steps, device=device)
    begin = len(scheduler.timesteps) - taken(steps, strength)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    return scheduler.timesteps[begin:]


def signal_at(scheduler: Any, index: int, t: torch.Tensor) -> torch.Tensor:
    """The share of signal abar at a step, a scalar.

    Args:
        index: of the step in the scheduler's whole schedule.
        t: its timestep. Samplers that count in sigma may lie between two of those that the base was trained on.
    """
    sigmas = getattr(scheduler, "sigmas", None)
    return scheduler.alphas_cumprod[int(t)] if sigmas is None else 1 / (1 + sigmas[index] ** 2)
