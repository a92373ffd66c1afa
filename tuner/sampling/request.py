"""What `tuner generate` is asked for: its options, whether they fit together, and the shots that they come to.

Importing this imports neither torch nor diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from ..config import ELSEWHERE, Options, argument, common
from ..errors import RequestError
from .options import (
    BetweenOptions,
    ControlOptions,
    PrecisionOptions,
    SamplingOptions,
    SizeOptions,
    SourceOptions,
    UpscaleOptions,
)
from .prompt_files import Line, read_prompts
from .shots import GUIDANCE, STEPS, Shot

REDRAWN, REPAINTED = 0.6, 1.0  # strengths, without a mask and with one


class Config(
    SizeOptions,
    SamplingOptions,
    SourceOptions,
    ControlOptions,
    UpscaleOptions,
    BetweenOptions,
    PrecisionOptions,
    Options,
):
    """Options of `tuner generate`."""

    panel: ClassVar[str] = "Options"
    elsewhere: ClassVar[Mapping[str, str]] = {
        **ELSEWHERE,
        "num_inference_steps": "steps", "inference_steps": "steps", "sampling_steps": "steps", "ddim_steps": "steps",
        "guidance_scale": "guidance", "cfg_scale": "guidance", "cfg": "guidance", "scale": "guidance",
        "negative_prompt": "negative", "scheduler": "sampler", "sampling_method": "sampler", "n_samples": "count",
        "num_images": "count", "num_images_per_prompt": "count", "images_per_prompt": "count", "n_iter": "count",
        "lora": "adapter", "loras": "adapter", "lora_path": "adapter", "lora_weights": "adapter",
        "size": "resolution", "output_path": "out", "w": "width", "h": "height", "init_image": "image",
        "init_img": "image", "image_path": "image", "mask_image": "mask", "mask_path": "mask",
        "denoising_strength": "strength", "ddim_eta": "eta", "cfg_rescale": "guidance_rescale",
        "rescale_cfg": "guidance_rescale", "thresholding": "threshold dynamic", "from_file": "prompts",
        "prompt_file": "prompts", "prompts_file": "prompts", "upscale_by": "upscale", "hr_scale": "upscale",
        "mixed_precision": "precision", "dtype": "precision", "controlnet": "control", "t2i_adapter": "control",
        "controlnet_path": "control", "controlnet_image": "control_image", "conditioning_image": "control_image",
        "control_guidance_start": "control_start", "control_guidance_end": "control_end",
        "preprocessor": "control_condition",
    }  # fmt: skip

    prompt: list[str] = argument("What to draw; quote each prompt.", "PROMPT")
    base: str = common("emoji", "The model: emoji (bundled), a diffusers folder, a checkpoint file, a Hub id.", "BASE")
    adapter: list[str] = common([], "An adapter to put on it, at a weight (1); may be repeated.", "FILE[:WEIGHT]")
    negative: str = common("", "What the pictures should not show.")
    steps: int = common(STEPS, "Denoising steps.", ge=1, le=1000)
    guidance: float = common(GUIDANCE, "How closely to follow the prompt; 1 is without guidance.", ge=0)
    sampler: Literal["ddpm", "ddim", "dpm++", "euler", "euler-a", "lcm", "ddim-trailing"] = common(
        "dpm++", "The sampler; lcm by itself takes 4 steps without guidance."
    )
    seed: int = common(0, "Seed of the first picture of each prompt.", ge=0, lt=2**63)
    count: int = common(1, "Pictures of each prompt.", ge=1)
    batch_size: int = common(4, "Pictures at once; this changes memory and speed, not the pictures.", ge=1)
    resolution: int = common(0, "Side of the pictures in pixels; 0 is the base's own.", ge=0)
    out: str = common("", "Folder of the pictures; by default pictures, then pictures-2, ...", "DIR")
    quiet: bool = common(False, "No progress bar; a plain line now and then.")

    @property
    def only_enlarges(self) -> bool:
        """Whether the picture of --image itself is enlarged, not one that is drawn from it."""
        return bool(self.image and self.upscale and self.strength is None)

    def condition_of(self, number: int) -> str:
        """What is computed from a control network's picture; empty where it is given."""
        said = self.control_condition[min(number, len(self.control_condition) - 1)] if self.control_condition else ""
        return "" if said == "given" else said

    @property
    def leaving(self) -> float:
        """The strength with which a picture is left."""
        return self.strength if self.strength is not None else REPAINTED if self.mask else REDRAWN


def check(config: Config) -> None:
    """Raises RequestError where options do not fit together."""
    wrong = {
        'tuner generate needs a prompt: tuner generate "a cat on a red background"': not (
            config.prompt or config.prompts or config.only_enlarges
        ),
        "--mask needs the picture that it belongs to; name it by --image": config.mask and not config.image,
        "--strength says how far to leave a picture; name one by --image": (
            config.strength is not None and not config.image
        ),
        f"--eta is of --sampler ddim, not of {config.sampler}; choose ddim, or leave --eta out": (
            config.eta and not config.sampler.startswith("ddim")
        ),
        "--mask keeps the picture's own size; leave --width, --height and --resolution out": (
            config.mask and (config.width or config.height or config.resolution)
        ),
        "--upscale and --mask do not go together; enlarge the picture that comes out": config.mask and config.upscale,
        "--control and --control-image come in pairs, in order; give each network its picture": (
            len(config.control) != len(config.control_image)
        ),
        "--control-condition is given once for all, or once for each --control": (
            len(config.control_condition) not in (0, 1, len(config.control))
        ),
        "--control-condition, --control-start and --control-end are of --control; name a control network": (
            not config.control and (config.control_condition or config.control_start or config.control_end < 1)
        ),
        "--control-end must be more than --control-start": config.control_end <= config.control_start,
        "--upscale of --image alone has no --control; say by --strength how far to leave the picture": (
            config.control and config.only_enlarges
        ),
        f"--upscale must be more than 1, not {config.upscale:g}": 0 < config.upscale <= 1,
        "--interpolate must be at least 2, not 1": config.interpolate == 1,
        "--seed-to is the end of a way; say by --interpolate how many pictures lie on it": (
            config.seed_to is not None and not config.interpolate
        ),
    }
    for sentence, holds in wrong.items():
        if holds:
            raise RequestError(f"{sentence}.")


def rows(config: Config) -> list[tuple[str, list[Shot]]]:
    """What is drawn, as the sheet shows it: rows of words and shots. Picture k of each prompt has the seed SEED + k.

    Raises:
        RequestError: the file of prompts is wrong, or a way is to be drawn and its two ends are not there.
    """
    lines = [Line(text) for text in config.prompt] + (read_prompts(Path(config.prompts)) if config.prompts else [])
    lines = lines or [Line("")]
    sized = next((line for line in lines if {"width", "height"} & line.values.keys()), None)
    if sized and (config.mask or config.only_enlarges):
        raise RequestError(f"{sized.where}: the picture of --image has its own size; leave --w and --h out.")
    if config.interpolate:
        return _ways(config, lines)
    return [(line.prompt, [_shot(config, line, k) for k in range(config.count)]) for line in lines]


def _shot(config: Config, line: Line, k: int) -> Shot:
    values = {
        "seed": config.seed, "negative": config.negative, "steps": config.steps, "guidance": config.guidance,
        "width": config.width or config.resolution, "height": config.height or config.resolution, **line.values,
    }  # fmt: skip
    return Shot(**{**values, "seed": values["seed"] + k}, prompt=line.prompt, where=line.where)


def _ways(config: Config, lines: list[Line]) -> list[tuple[str, list[Shot]]]:
    """The pictures on the way from the first of two prompts to the second, and from --seed to --seed-to: a row a k."""
    if len(lines) > 2 or (len(lines) == 1 and config.seed_to is None):
        have = "1 prompt" if len(lines) == 1 else f"{len(lines)} prompts"
        raise RequestError(f"--interpolate goes between two prompts, or two seeds by --seed-to; here is {have}.")
    found = []
    for k in range(config.count):
        first, last = _shot(config, lines[0], k), _shot(config, lines[-1], k)
        if config.seed_to is not None:
            last = replace(last, seed=config.seed_to + k)
        if replace(last, prompt=first.prompt, seed=first.seed, where=first.where) != first:
            raise RequestError(f"{last.where}: --interpolate needs two lines that differ by prompt and seed alone.")
        shares = [i / (config.interpolate - 1) for i in range(config.interpolate)]
        shots = [replace(first, towards=(last.prompt, last.seed), share=share) for share in shares]
        found.append((f"{first.prompt} ... {last.prompt}" if len(lines) == 2 else first.prompt, shots))
    return found
