"""Control networks at work while pictures are drawn: what each is given, when it works, and what all add together.

Several at once: their residuals are summed, as in diffusers' MultiControlNetModel and MultiAdapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..data.conditions import computed
from ..models.control import ControlNetwork, Residuals, residuals, sees_noise
from .shots import Shot, Size

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from ..data.source import Source


@dataclass(frozen=True)
class Control:
    """A control network and what it is given.

    Attributes:
        network: diffusers' ControlNetModel or T2IAdapter.
        picture: RGB; its middle is taken where it has another shape than what is drawn.
        how: the condition that is computed from it; empty takes it as it is.
        weight: what the network adds is multiplied by.
        start, end: the share of the steps at which it begins and ends to work.
        each: in the picture's stead, one for each picture that is drawn, in their order.
    """

    network: ControlNetwork
    picture: Image.Image
    how: str = ""
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    each: Sequence[Image.Image] = ()

    def at(self, size: Size) -> Tensor:
        """The condition of pictures of (width, height): (1, 3, height, width) in [0, 1]; of `each`, a row each."""
        return torch.cat([self._at(picture, size) for picture in self.each or [self.picture]])

    def _at(self, picture: Image.Image, size: Size) -> Tensor:
        fitted = picture if picture.size == size else ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
        values = computed(self.how, fitted) if self.how else np.asarray(fitted)
        values = values if values.ndim == 3 else values[..., None]
        return torch.from_numpy(values.copy()).permute(2, 0, 1)[None].expand(-1, 3, -1, -1).float() / 255

    def of(self, start: int, end: int) -> Control:
        """The same for some of the pictures that are drawn."""
        return replace(self, each=self.each[start:end])

    def works(self, step: int, steps: int) -> bool:
        """Whether it works at a step (from 0) of so many: diffusers' rule."""
        return step / steps >= self.start and (step + 1) / steps <= self.end


class Steering:
    """Control networks over pictures of one size."""

    def __init__(self, controls: Sequence[Control], size: Size, device: torch.device) -> None:
        self._controls = [(control, control.at(size).to(device)) for control in controls]
        self._asked: dict[int, Residuals] = {}  # what networks that see no noise add: the same at every step

    def __call__(
        self, noisy: Tensor, t: Tensor, hidden: Tensor, added: Mapping[str, Tensor] | None, step: int, steps: int
    ) -> dict[str, Any]:
        """What the U-Net is given besides, for noisy latents (B, C, h, w) at a step of so many."""
        total = Residuals()
        for number, (control, condition) in enumerate(self._controls):
            if not control.works(step, steps):
                continue
            if sees_noise(control.network):
                rows = condition.repeat(len(noisy) // len(condition), 1, 1, 1)  # the two passes of guidance
                total = total + residuals(control.network, rows, noisy, t, hidden, added, control.weight)
                continue
            if number not in self._asked:
                self._asked[number] = residuals(control.network, condition, noisy, t, hidden, weight=control.weight)
            total = total + self._asked[number].repeated(len(noisy))
        return total.arguments()


def rows_of(
    pipe: StableDiffusionPipeline, network: ControlNetwork, source: Source, prompts: Sequence[str], seeds: Sequence[int]
) -> list[list[Image.Image]]:
    """A row for each prompt: the condition of an example with this caption, or of another, then a picture a seed."""
    from .drawing import draw

    rows = []
    for number, prompt in enumerate(prompts):
        example = source.captions.index(prompt) if prompt in source.captions else number % len(source)
        picture = condition_of(source, example)
        shots = [Shot(prompt, seed, width=picture.width, height=picture.height) for seed in seeds]
        rows.append([picture, *draw(pipe, shots, controls=[Control(network, picture)])])
    return rows


def condition_of(source: Source, example: int) -> Image.Image:
    """The condition of an example, as an RGB picture."""
    assert source.controls is not None
    return Image.fromarray(source.controls[example].expand(3, -1, -1).permute(1, 2, 0).numpy().copy())
