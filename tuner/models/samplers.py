"""The samplers by the names that people type. The schedulers are diffusers' own."""

from typing import Any

from ..errors import RequestError

# name -> (diffusers class, what differs from the base's own scheduler configuration)
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {"clip_sample": False}),
}


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
