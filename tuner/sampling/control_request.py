"""What `--control` asks for: networks, their pictures, and the size of what is drawn after them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RequestError
from .control import Control
from .drawing import size_of
from .images import Source, open_picture, suited
from .shots import Shot, Size

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL import Image

    from .request import Config

LOST = 0.15  # the share of a control's picture that may be cropped away: more would be another picture


def parse_control(text: str) -> tuple[str, float]:
    """`DIR[:WEIGHT]` -> the folder and its weight, 1 by default. A name that is a folder as it stands has no weight.

    Raises:
        RequestError: there is no such folder, or the weight is not a finite number.
    """
    if Path(text).is_dir():
        return text, 1.0
    name, _, last = text.rpartition(":")
    if not Path(name).is_dir() or not name:
        raise RequestError(f"--control {text}: there is no such folder; name one as DIR or as DIR:WEIGHT.")
    try:
        weight = float(last)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise RequestError(f"--control {text}: {last or 'nothing'} is not a weight; write a number, as in {name}:0.8.")
    return name, weight


def opened(config: Config) -> list[tuple[str, float, Image.Image]]:
    """The folders, weights and pictures of `--control`, before anything large is loaded. Raises RequestError."""
    pairs = zip(config.control, config.control_image, strict=True)
    return [(*parse_control(text), open_picture(file, "--control-image")) for text, file in pairs]


def loaded(
    pipe: StableDiffusionPipeline, config: Config, asked: Sequence[tuple[str, float, Image.Image]]
) -> list[Control]:
    """The control networks, held as the U-Net is. Raises RequestError where one does not fit the base."""
    from ..models.control_loading import load_control

    controls = []
    for number, (folder, weight, picture) in enumerate(asked):
        network = load_control(folder, pipe.unet, pipe.vae_scale_factor).to(pipe.unet.device, pipe.unet.dtype)
        how = config.condition_of(number)
        controls.append(Control(network, picture, how, weight, config.control_start, config.control_end))
    return controls


def sized(
    pipe: StableDiffusionPipeline, shots: Sequence[Shot], source: Source | None, controls: Sequence[Control]
) -> list[Shot]:
    """The shots, in the shape of the first control's picture where nothing else says their size.

    Raises:
        RequestError: a control's picture has another shape than what is drawn.
    """
    if not controls:
        return list(shots)
    if source is None:
        width, height = suited(pipe, controls[0].picture.size)
        shots = [shot if shot.width or shot.height else replace(shot, width=width, height=height) for shot in shots]
    for size in dict.fromkeys(size_of(pipe, shot, source) for shot in shots):
        for control in controls:
            if _lost(control.picture.size, size) > LOST:
                sizes = "{} x {} pixels, what is drawn {} x {}".format(*control.picture.size, *size)
                raise RequestError(f"A --control-image has {sizes}; crop it to that shape, or leave sizes out.")
    return list(shots)


def _lost(size: Size, into: Size) -> float:
    """The share of a picture that is cropped away where it is to cover another size."""
    one, other = size[0] / size[1], into[0] / into[1]
    return 1 - min(one, other) / max(one, other)
