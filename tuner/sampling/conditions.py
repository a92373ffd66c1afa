"""What the model is told of each picture: its prompt and its negative prompt, encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..models.conditioning import Conditioning
from .shots import Shot

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

KEPT = 64  # prompts whose encodings stay in memory


@dataclass(frozen=True)
class Told:
    """What the model is told of B pictures.

    Attributes:
        wanted: the prompts, B rows.
        unwanted: the negative prompts, B rows; None without guidance.
        guidance: its scale.
    """

    wanted: Conditioning
    unwanted: Conditioning | None
    guidance: float


def leads_away(pipe: StableDiffusionPipeline, guidance: float) -> bool:
    """Whether a picture is led away from a negative prompt: not without guidance, nor by a U-Net that is told it."""
    return guidance > 1 and pipe.unet.config.time_cond_proj_dim is None


class Prompts:
    """The encoder of prompts: diffusers' own way, so that adapters and learned tokens in the pipeline count."""

    def __init__(self, pipe: StableDiffusionPipeline) -> None:
        self._pipe = pipe
        self._known: dict[tuple[str, bool], Conditioning] = {}

    def told(self, shots: Sequence[Shot]) -> Told:
        """What the model is told of pictures that have one guidance. On a way between two prompts it changes evenly."""
        guidance = shots[0].guidance
        wanted = Conditioning.cat([self._wanted(shot) for shot in shots])
        unwanted = None
        if leads_away(self._pipe, guidance):
            unwanted = Conditioning.cat([self._one(shot.negative, True) for shot in shots])
        return Told(wanted, unwanted, guidance)

    def _wanted(self, shot: Shot) -> Conditioning:
        start = self._one(shot.prompt, False)
        if not shot.towards or shot.towards[0] == shot.prompt:
            return start
        end = self._one(shot.towards[0], False)
        pooled = None
        if start.pooled is not None and end.pooled is not None:
            pooled = torch.lerp(start.pooled, end.pooled, shot.share)
        return Conditioning(torch.lerp(start.hidden, end.hidden, shot.share), pooled)

    def _one(self, prompt: str, negative: bool) -> Conditioning:
        """One row. An empty negative prompt is all zeros for the bases that were trained so (SDXL)."""
        key = prompt, negative and not prompt
        if key not in self._known:
            if len(self._known) >= KEPT:
                self._known.clear()
            made = self._encoded(prompt)
            zeros = key[1] and getattr(self._pipe.config, "force_zeros_for_empty_prompt", False)
            self._known[key] = made.zeros() if zeros else made
        return self._known[key]

    def _encoded(self, prompt: str) -> Conditioning:
        pipe = self._pipe
        found = pipe.encode_prompt(
            prompt, device=pipe.unet.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return Conditioning(found[0], found[2] if len(found) == 4 else None)
