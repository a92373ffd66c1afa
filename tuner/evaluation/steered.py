"""Pictures drawn after conditions: what these are taken from, and what is drawn with a control network and without."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps

from ..data.conditions import computed
from ..errors import RequestError
from ..models.control_loading import CONDITIONS, kind_of, load_control, trained_with
from ..sampling.control import Control
from ..sampling.images import decode, encode, own_side, rounded, unit
from ..sampling.shots import Shot, Size
from .bench import Bench, need
from .gallery import Gallery

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from ..bundled.world import Scene

SCENES = 8701  # the seed of scenes that nothing was trained on


@dataclass(frozen=True)
class Example:
    """A picture that was not trained on, and its condition.

    Attributes:
        name: what it is called.
        caption: "" where nothing says what it shows.
        picture: RGB, of the size that is drawn.
        condition: uint8, (H, W) or (H, W, 3).
    """

    name: str
    caption: str
    picture: Image.Image
    condition: np.ndarray

    @property
    def shown(self) -> Image.Image:
        """The condition as a picture."""
        return as_picture(self.condition)


def as_picture(condition: np.ndarray) -> Image.Image:
    """A condition, RGB."""
    return Image.fromarray(condition).convert("RGB")


def condition_of(bench: Bench) -> str:
    """What the control network draws after.

    Raises:
        RequestError: no control network is judged, there is none in the folder, or nothing says what it draws after.
    """
    need(not bench.config.against, "--suite control holds a control network against its base; leave --against out.")
    if bench.judged.control is None:
        raise RequestError("--suite control judges control networks; give a run of one, or --control DIR.")
    folder = bench.judged.control[0]
    kind_of(str(folder))
    said = bench.config.condition or trained_with(folder)
    end = f"name what it draws after by --condition ({', '.join(CONDITIONS)})."
    need(bool(said), f"{folder} does not say what it was trained with; {end}")
    need(said in CONDITIONS, f"{folder} draws after conditions that were given to it, and none is made here; {end}")
    return said


def examples_of(bench: Bench, how: str) -> list[Example]:
    """The pictures of --images, evenly taken, else scenes of the bundled base's world, with their conditions.

    Raises:
        RequestError: there is no such folder, or none is named and the base is not of that world.
    """
    named = bench.config.images
    need(bool(named or bench.config.world), "--suite control needs pictures that were not trained on, to take "
         "conditions from; name their folder by --images.")  # fmt: skip
    gallery = Gallery.open(named, "--images") if named else None
    pipe = bench.pipe(bench.judged.base)
    side = bench.config.resolution or own_side(pipe)
    found = _scenes(bench, side) if gallery is None else _pictures(gallery, bench.config.examples, pipe, side)
    return [Example(name, words, one, computed(how, one)) for name, words, one in found]


def _scenes(bench: Bench, side: int) -> list[tuple[str, str, Image.Image]]:
    """Plain scenes of the subjects that the base knows, as far as its judges do: those of its own prompts.

    Their captions do not say how large the subject is, nor where it is: only the condition does.
    """
    from ..bundled import emoji, world

    asked = (bench.asked(text).subject for text in bench.config.other)
    known = tuple(dict.fromkeys(filter(None, asked))) or emoji.KNOWN
    plain: Iterator[Scene] = world.scenes(SCENES, bench.config.examples, known, styles=("plain",))
    scenes = [world.spread(it) for it in plain]
    return [(f"scene {i}", world.caption(it), world.draw(it, side)) for i, it in enumerate(scenes)]


def _pictures(
    gallery: Gallery, most: int, pipe: StableDiffusionPipeline, side: int
) -> list[tuple[str, str, Image.Image]]:
    """Each in its own shape, cropped and scaled to the area of a square of this side."""
    places = [i * len(gallery) // min(most, len(gallery)) for i in range(min(most, len(gallery)))]
    return [(gallery.names[i], gallery.captions[i], _fitted(gallery[i], pipe, side)) for i in places]


def _fitted(picture: Image.Image, pipe: StableDiffusionPipeline, side: int) -> Image.Image:
    scale = side / math.sqrt(picture.width * picture.height)
    size: Size = rounded((picture.width * scale, picture.height * scale), unit(pipe))
    return picture if picture.size == size else ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def drawn(bench: Bench, examples: Sequence[Example], steered: bool) -> list[Image.Image]:
    """--count pictures of each example's caption, with the control network or without, at the same seeds.

    Every picture has a seed of its own: picture k of example i has SEED + i * COUNT + k.

    Raises:
        RequestError: the control network cannot be loaded, or does not fit the base.
    """
    c = bench.config
    many = [one for one in examples for _ in range(c.count)]
    shots = [
        Shot(one.caption, c.seed + i, "", c.steps, c.guidance, *one.picture.size) for i, one in enumerate(many)
    ]  # fmt: skip
    if not steered and not bench.judged.adapters:
        return bench.before(shots)
    with bench.adapted() as pipe:
        controls = [steering(bench, pipe, many)] if steered else []
        return bench.drawn(pipe, shots, "with control" if steered else "without control", controls)


def steering(bench: Bench, pipe: StableDiffusionPipeline, examples: Sequence[Example]) -> Control:
    """The control network that is judged, for pictures that are drawn after these, one each. Raises RequestError."""
    assert bench.judged.control is not None
    folder, weight = bench.judged.control
    network = load_control(str(folder), pipe.unet, pipe.vae_scale_factor).to(pipe.unet.device, pipe.unet.dtype)
    return Control(network, examples[0].shown, weight=weight, each=[one.shown for one in examples])


@torch.no_grad()
def rebuilt(bench: Bench, examples: Sequence[Example]) -> list[Image.Image]:
    """The examples' own pictures, through the base's autoencoder and back: the most that can be drawn."""
    pipe = bench.pipe(bench.judged.base)
    return [decode(pipe, encode(pipe, one.picture)) for one in examples]
