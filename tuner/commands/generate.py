"""Draw pictures from prompts, with any adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..sampling.manner import LCM_GUIDANCE, LCM_STEPS
from ..sampling.metadata import A1111 as A1111
from ..sampling.metadata import parameters, write
from ..sampling.request import Config as Config
from ..sampling.request import check, rows
from .options import Command
from .options import command as command_of
from .show import Show, showing

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL import Image

    from ..sampling.control import Control
    from ..sampling.images import Source
    from ..sampling.shots import Shot

ABOUT = f"""{__doc__}

Picture k of each prompt has the seed SEED + k, whatever the batch size. The pictures are numbered prompt by prompt, and
sheet.png shows them all, a row a prompt. Each says in its PNG metadata what it was made with, as A1111's do."""


def command(words: list[str]) -> tuple[Command, list[str]]:
    """The command, and the words left for it."""
    return command_of("generate", Config, generate, ABOUT, preset=_usual), words


def _usual(given: Mapping[str, Any]) -> dict[str, Any]:
    """How the base and the adapters want to be drawn with, and what goes with the sampler."""
    values: dict[str, Any] = {}
    if given.get("base"):
        from ..models.latent_diffusion import recommended

        values |= {k: v for k, v in recommended(str(given["base"]), "generate").items() if k in Config.model_fields}
    if given.get("adapter") and isinstance(given["adapter"], list):
        from ..adapters.apply import parse_adapter
        from ..adapters.header import manner

        found = [manner(parse_adapter(str(text))[0]) for text in given["adapter"]]
        values |= next((one.options for one in found if one), {})
    if not values and given.get("sampler") == "lcm":
        values = {"steps": LCM_STEPS, "guidance": LCM_GUIDANCE}
    return values


def generate(config: Config) -> None:
    """Draw the pictures, and write each as soon as it is done."""
    check(config)
    asked = rows(config)
    shots = [shot for _, row in asked for shot in row]
    from ..adapters.apply import parse_adapter
    from ..sampling.conditions import leads_away
    from ..sampling.control_request import loaded, opened, sized

    adapters = [parse_adapter(text) for text in config.adapter]
    source, steered = _source(config), opened(config)
    folder, show = _folder(config, len(shots)), showing(config.quiet)
    try:
        with show.working(f"Loading the base {config.base}"):
            pipe = _pipeline(config, adapters)
            controls = loaded(pipe, config, steered)
        shots = sized(pipe, shots, source, controls)
        _say_what_is_cut(pipe, shots, show)
        _say_what_is_fitted(pipe, config, shots, source, show)
        if any(shot.negative and not leads_away(pipe, shot.guidance) for shot in shots):
            show.say("A negative prompt does nothing at --guidance 1 or less, or where the base is told its guidance.")
        drawn = _drawn(pipe, config, shots, source, controls, folder, show)
    finally:
        show.close()
    left = _leave_sheets(config, [(words, [drawn.pop(0) for _ in row]) for words, row in asked], folder)
    names = _name(0) if len(shots) == 1 else f"{_name(0)} to {_name(len(shots) - 1)}"
    show.say(
        f"{len(shots)} picture{'s' * (len(shots) > 1)} in {folder}: {', '.join([names, *left[:-1]])}, and {left[-1]}."
    )


def _source(config: Config) -> Source | None:
    """The picture to begin from."""
    if not config.image:
        return None
    from ..sampling.images import Source, open_mask, open_picture

    picture = open_picture(config.image, "--image")
    return Source(picture, config.leaving, open_mask(config.mask, picture) if config.mask else None)


def _sheets(config: Config) -> list[str]:
    return ["strip.png", "sheet.png"] if config.interpolate else ["sheet.png"]


def _folder(config: Config, count: int) -> Path:
    """Where the pictures go. An explicit folder may hold other files, but none that would be overwritten."""
    if config.out:
        folder = Path(config.out)
        names = [_name(k) for k in range(count)]
        taken = next((name for name in [*names, *_sheets(config)] if (folder / name).exists()), None)
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
    from ..adapters.header import manner
    from ..models.latent_diffusion import LatentDiffusion
    from ..randomness import use_threads
    from ..sampling.precision import chosen, hold

    use_threads()
    model = LatentDiffusion.load(config.base)
    pipe = model.pipeline(config.sampler)
    for number, (path, weight) in enumerate(adapters):
        apply_adapter(pipe, path, weight, f"adapter_{number}")
    ways = [way for path, _ in adapters if (way := manner(path)) and way.sampler == config.sampler]
    if ways:  # the first, as its options are
        pipe.scheduler.register_to_config(**ways[0].schedule)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    hold(pipe, chosen(config.precision, device, model.family.fits_fp16), device)
    return pipe


def _say_what_is_cut(pipe: StableDiffusionPipeline, shots: list[Shot], show: Show) -> None:
    """The libraries' own warning of prompts that are too long names no prompt, and is turned down."""
    longest = pipe.tokenizer.model_max_length
    ends = [shot.towards[0] for shot in shots if shot.towards]
    for prompt in dict.fromkeys([*(shot.prompt for shot in shots), *ends, *(shot.negative for shot in shots)]):
        length = len(pipe.tokenizer(prompt, verbose=False).input_ids)
        if length > longest:
            show.say(f'"{prompt[:40]}..." is too long for this base: it reads {longest} tokens of {length}.')


def _say_what_is_fitted(
    pipe: StableDiffusionPipeline, config: Config, shots: list[Shot], source: Source | None, show: Show
) -> None:
    """A picture to begin from whose size is not that of what is drawn."""
    if source is None:
        return
    from ..sampling.drawing import size_of
    from ..sampling.enlarging import enlarged_size

    own = "{} x {}".format(*source.picture.size)
    if config.only_enlarges:
        show.say(f"{config.image} has {own} pixels; it becomes {{}} x {{}}.".format(
            *enlarged_size(pipe, source.picture.size, config.upscale)))  # fmt: skip
        return
    how = "resized for it and put back" if source.mask else "resized and cropped in the middle"
    for size in dict.fromkeys(size_of(pipe, shot, source) for shot in shots):
        if size != source.picture.size:
            show.say(f"{config.image} has {own} pixels; it is drawn at {size[0]} x {size[1]}, {how}.")


def _drawn(
    pipe: StableDiffusionPipeline,
    config: Config,
    shots: list[Shot],
    source: Source | None,
    controls: list[Control],
    folder: Path,
    show: Show,
) -> list[Image.Image]:
    """Draw, and write each picture with what it was made with."""
    from ..sampling.drawing import draw, passes
    from ..sampling.enlarging import enlarge, enlarging_passes

    total = 0 if config.only_enlarges else passes(pipe, shots, source, config.batch_size)
    total += enlarging_passes(shots, config.upscale_strength) if config.upscale else 0
    done = iter(range(1, total + 1))

    def tick() -> None:
        show.count(next(done), total, "denoising step")

    stream: Iterator[Image.Image] = draw(pipe, shots, config, source, config.batch_size, tick, controls)
    if config.only_enlarges and source:
        stream = (source.picture for _ in shots)
    drawn = []
    for number, (shot, picture) in enumerate(zip(shots, stream, strict=True)):
        size = picture.size
        if config.upscale:
            picture = enlarge(
                pipe, picture, shot, config.upscale, config.upscale_strength, config, config.batch_size, tick
            )
        text = parameters(config, shot, size)
        try:
            write(picture, folder / _name(number), text)
        except OSError as error:
            raise RequestError(f"--out {folder} cannot be written ({error.strerror}); name another folder.") from error
        drawn.append(picture)
    return drawn


def _leave_sheets(config: Config, drawn: list[tuple[str, list[Image.Image]]], folder: Path) -> list[str]:
    """Write the contact sheet and, of a way, the strip. Returns their names."""
    from ..evaluation.sheet import grid, save
    from ..sampling.strips import square, strip

    pictures = [row for _, row in drawn]
    save(grid([[square(one) for one in row] for row in pictures], [words for words, _ in drawn]), folder / "sheet.png")
    if config.interpolate:
        save(strip(pictures), folder / "strip.png")
    return _sheets(config)


def _name(number: int) -> str:
    return f"{number:04d}.png"
