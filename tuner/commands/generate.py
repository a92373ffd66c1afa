"""Draw pictures from prompts, with any adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ..config import ELSEWHERE, Options, argument, common
from ..errors import RequestError
from .options import Command
from .options import command as command_of
from .show import Show, showing

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL import Image

ABOUT = f"""{__doc__}

Picture k of each prompt has the seed SEED + k, whatever the batch size. The pictures are numbered prompt by prompt, and
sheet.png shows them all, a row a prompt. Each says in its PNG metadata what it was made with, as A1111's do."""
A1111 = {
    "ddpm": "DDPM", "ddim": "DDIM", "dpm++": "DPM++ 2M Karras", "euler": "Euler", "euler-a": "Euler a", "lcm": "LCM",
}  # fmt: skip


class Config(Options):
    """Options of `tuner generate`."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        **ELSEWHERE,
        "num_inference_steps": "steps", "inference_steps": "steps", "sampling_steps": "steps", "ddim_steps": "steps",
        "guidance_scale": "guidance", "cfg_scale": "guidance", "cfg": "guidance", "scale": "guidance",
        "negative_prompt": "negative", "scheduler": "sampler", "sampling_method": "sampler", "n_samples": "count",
        "num_images": "count", "num_images_per_prompt": "count", "images_per_prompt": "count", "n_iter": "count",
        "lora": "adapter", "loras": "adapter", "lora_path": "adapter", "lora_weights": "adapter",
        "height": "resolution", "width": "resolution", "size": "resolution", "output_path": "out",
    }  # fmt: skip

    prompts: list[str] = argument("What to draw; quote each prompt.", "PROMPT")
    base: str = common("emoji", "The model: emoji (bundled), a diffusers folder, a checkpoint file, a Hub id.", "BASE")
    adapter: list[str] = common([], "An adapter to put on it, at a weight (1); may be repeated.", "FILE[:WEIGHT]")
    negative: str = common("", "What the pictures should not show.")
    steps: int = common(20, "Denoising steps.", ge=1, le=1000)
    guidance: float = common(4.0, "How closely to follow the prompt; 1 is without guidance.", ge=0)
    sampler: Literal["ddpm", "ddim", "dpm++", "euler", "euler-a", "lcm"] = common("dpm++", "The sampler.")
    seed: int = common(0, "Seed of the first picture of each prompt.", ge=0, lt=2**63)
    count: int = common(1, "Pictures of each prompt.", ge=1)
    batch_size: int = common(4, "Pictures at once; this changes memory and speed, not the pictures.", ge=1)
    resolution: int = common(0, "Side of the pictures in pixels; 0 is the base's own.", ge=0)
    out: str = common("", "Folder of the pictures; by default pictures, then pictures-2, ...", "DIR")
    quiet: bool = common(False, "No progress bar; a plain line now and then.")


def command(words: list[str]) -> tuple[Command, list[str]]:
    """The command, and the words left for it."""
    return command_of("generate", Config, generate, ABOUT), words


def generate(config: Config) -> None:
    """Draw the pictures, and write each as soon as it is done."""
    if not config.prompts:
        raise RequestError('tuner generate needs a prompt: tuner generate "a cat on a red background".')
    from ..adapters.apply import parse_adapter

    adapters = [parse_adapter(text) for text in config.adapter]
    folder, show = _folder(config), showing(config.quiet)
    try:
        with show.working(f"Loading the base {config.base}"):
            pipe = _pipeline(config, adapters)
        _say_what_is_cut(pipe, config, show)
        drawn = _drawn(pipe, config, folder, show)
    finally:
        show.close()
    from ..evaluation.sheet import grid, save

    rows = [drawn[start : start + config.count] for start in range(0, len(drawn), config.count)]
    save(grid(rows, config.prompts), folder / "sheet.png")
    names = _name(0) if len(drawn) == 1 else f"{_name(0)} to {_name(len(drawn) - 1)}"
    show.say(f"{len(drawn)} picture{'s' * (len(drawn) > 1)} in {folder}: {names}, and sheet.png.")


def _folder(config: Config) -> Path:
    """Where the pictures go. An explicit folder may hold other files, but none that would be overwritten."""
    if config.out:
        folder = Path(config.out)
        names = [_name(k) for k in range(len(config.prompts) * config.count)]
        taken = next((name for name in [*names, "sheet.png"] if (folder / name).exists()), None)
        if taken:
            raise RequestError(f"--out {folder} holds {taken} already; name a new folder.")
        if folder.exists() and not folder.is_dir():
            raise RequestError(f"--out {folder} is a file; name a folder.")
        return folder
    folder, number = Path("pictures"), 1
    while folder.exists():
        number += 1
        folder = Path(f"pictures-{number}")
    return folder


def _pipeline(config: Config, adapters: list[tuple[Path, float]]) -> StableDiffusionPipeline:
    import torch

    from ..adapters.apply import apply_adapter
    from ..models.latent_diffusion import LatentDiffusion
    from ..randomness import use_threads

    use_threads()
    pipe = LatentDiffusion.load(config.base).pipeline(config.sampler)
    for number, (path, weight) in enumerate(adapters):
        apply_adapter(pipe, path, weight, f"adapter_{number}")
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def _say_what_is_cut(pipe: StableDiffusionPipeline, config: Config, show: Show) -> None:
    """The libraries' own warning of prompts that are too long names no prompt, and is turned down."""
    longest = pipe.tokenizer.model_max_length
    for prompt in dict.fromkeys([*config.prompts, config.negative]):
        length = len(pipe.tokenizer(prompt, verbose=False).input_ids)
        if length > longest:
            show.say(f'"{prompt[:40]}..." is too long for this base: it reads {longest} tokens of {length}.')


def _drawn(pipe: StableDiffusionPipeline, config: Config, folder: Path, show: Show) -> list[Image.Image]:
    """Draw, and write each picture with what it was made with."""
    from ..evaluation.pictures import draw

    seeds = [config.seed + k for k in range(config.count)]
    stream = draw(
        pipe, config.prompts, seeds, config.steps, config.guidance, config.negative, config.batch_size,
        config.resolution, lambda done, total: show.count(done, total, "denoising step"),
    )  # fmt: skip
    drawn = []
    for number, picture in enumerate(stream):
        prompt, seed = config.prompts[number // config.count], seeds[number % config.count]
        try:
            _write(picture, folder / _name(number), parameters(config, prompt, seed, picture.size))
        except OSError as error:
            raise RequestError(f"--out {folder} cannot be written ({error.strerror}); name another folder.") from error
        drawn.append(picture)
    return drawn


def parameters(config: Config, prompt: str, seed: int, size: tuple[int, int]) -> str:
    """What a picture was made with, as A1111 and what reads its pictures know it."""
    told = {
        "Steps": config.steps, "Sampler": A1111[config.sampler], "CFG scale": f"{config.guidance:g}", "Seed": seed,
        "Size": f"{size[0]}x{size[1]}", "Model": Path(config.base).name,
    }  # fmt: skip
    if config.adapter:
        told["Adapters"] = '"' + ", ".join(Path(text).name for text in config.adapter) + '"'
    lines = [prompt, *([f"Negative prompt: {config.negative}"] if config.negative else [])]
    return "\n".join([*lines, ", ".join(f"{key}: {value}" for key, value in told.items())])


def _write(picture: Image.Image, path: Path, text: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    from ..files import replacing

    told = PngInfo()
    told.add_itxt("parameters", text) if not text.isascii() else told.add_text("parameters", text)
    with replacing(path) as part:
        picture.save(part, "PNG", pnginfo=told)


def _name(number: int) -> str:
    return f"{number:04d}.png"
