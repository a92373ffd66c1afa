"""Sources of training examples. Which example stands where is a pure function of the seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..config import Options, common
from ..errors import RequestError, RunError
from ..models.conditioning import Conditioning
from ..randomness import Draws, seed_of, shuffled
from .batch import Batch
from .folder import read_folder
from .pictures import BadPicture, read, square

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion

ENCODING_BATCH = 16


class DataOptions(Options):
    """The pictures and what they are called."""

    panel: ClassVar[str] = "Pictures and captions"

    images: str = common("", "A folder of pictures, captions in .txt files beside them or in metadata.jsonl.", "DIR")
    resolution: int = Field(0, ge=0, description="Side of the training pictures in pixels; 0 is the base's own.")
    caption: str = Field("", description="The caption of pictures that have none.")
    trigger: str = Field("", description="A word that is put before every caption.")
    caption_dropout: float = Field(0.0, ge=0, le=1, description="Share of the examples that train without a caption.")


@dataclass(frozen=True)
class Source:
    """The examples of a run.

    Attributes:
        seed: the run's.
        global_batch: examples to an optimizer step, over all micro-batches and processes.
        captions: one an example (N).
        moments: the posterior of each picture, (N, 2C, h, w), or
        pixels: the pictures, uint8 (N, 3, H, W).
        conditioning, rows: the different captions, encoded once, and each example's row among them, (N,).
        empty: the conditioning of the empty caption, one row.
        dropout: share of the examples whose caption is left out.
        skipped: a sentence for each picture that could not be used.
        prior: how many of the examples, the last ones, the base itself has drawn.
        visits: the examples that an epoch visits, (V,), where some are visited more often than others.
    """

    seed: int
    global_batch: int
    captions: list[str]
    moments: Tensor | None = None
    pixels: Tensor | None = None
    conditioning: Conditioning | None = None
    rows: Tensor | None = None
    empty: Conditioning | None = None
    dropout: float = 0.0
    skipped: tuple[str, ...] = ()
    prior: int = 0
    visits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def batch(self, step: int, positions: Sequence[int], device: torch.device | str = "cpu") -> Batch:
        """The examples at `positions` of the global batch of optimizer step `step` (from 0).

        Epoch after epoch, every visit is paid once, in an order of its own.
        """
        visits = len(self) if self.visits is None else len(self.visits)
        places = [divmod(step * self.global_batch + position, visits) for position in positions]
        index = [int(_order(self.seed, epoch, visits)[offset]) for epoch, offset in places]
        index = index if self.visits is None else self.visits[index].tolist()
        draw = Draws.at(self.seed, step, positions, device)
        keep = draw.uniform("caption dropout") >= self.dropout
        pixels = None if self.pixels is None else self.pixels[index].to(device).float() / 127.5 - 1
        captions = tuple(self.captions[i] if kept else "" for i, kept in zip(index, keep.tolist(), strict=True))
        conditioning = None
        if self.conditioning is not None and self.rows is not None and self.empty is not None:
            known = self.conditioning[self.rows[index]].to(device)
            conditioning = known.where(keep, self.empty.to(device)) if self.dropout else known
        moments = None if self.moments is None else self.moments[index].to(device)
        return Batch(draw, captions, moments, pixels, conditioning)

    def with_prior(self, prior: Source) -> Source:
        """These examples and, about as often, those of `prior`: every epoch repeats the fewer to match the more."""
        mine, its = torch.arange(len(self)), torch.arange(len(prior)) + len(self)
        more = max(len(self), len(prior))
        visits = torch.cat([part.repeat(round(more / len(part))) for part in (mine, its)])
        assert self.moments is not None and prior.moments is not None
        both = replace(self, captions=self.captions + prior.captions, prior=len(prior), visits=visits)
        both = replace(both, moments=torch.cat([self.moments, prior.moments]))
        if self.conditioning is None or prior.conditioning is None or self.rows is None or prior.rows is None:
            return both
        rows = torch.cat([self.rows, prior.rows + len(self.conditioning)])
        return replace(both, conditioning=Conditioning.cat([self.conditioning, prior.conditioning]), rows=rows)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return shuffled(seed, epoch, count)


def pictures(config: Any, model: LatentDiffusion) -> Source:
    """The pictures of `--images` as they are, decoded once.

    Raises:
        RequestError: no folder, no picture, or none without fault.
        RunError: more than max(3, 1%) of the pictures cannot be read.
    """
    if not config.images:
        raise RequestError("--images is missing; name a folder of pictures.")
    side = config.resolution or model.resolution
    if side % model.unit:
        raise RequestError(f"--resolution {side} does not suit this base; use a multiple of {model.unit}.")
    examples, arrays, captions, skipped = read_folder(Path(config.images)), [], [], []
    for example in examples:
        try:
            arrays.append(square(read(example.path), side))
        except BadPicture as error:
            skipped.append(str(error))
            continue
        captions.append(" ".join(filter(None, (config.trigger, example.caption or config.caption))))
    if not arrays:
        raise RequestError(f"--images {config.images} holds no picture that can be read; the first: {skipped[0]}.")
    if len(skipped) > max(3, len(examples) // 100):
        listed = "; ".join(skipped[:5])
        raise RunError(f"{len(skipped)} of {len(examples)} pictures cannot be read, too many to go on: {listed}.")
    world = int(torch.distributed.get_world_size()) if torch.distributed.is_initialized() else 1
    pixels = torch.from_numpy(np.stack(arrays))
    total = config.batch_size * config.accumulate * world
    return Source(config.seed, total, captions, pixels=pixels, dropout=config.caption_dropout, skipped=tuple(skipped))


@torch.no_grad()
def with_latents(source: Source, model: LatentDiffusion, told: Callable[[int], None] = lambda done: None) -> Source:
    """The source with its pictures encoded, once, as the moments of the autoencoder's posterior."""
    assert source.pixels is not None
    parts = []
    for start in range(0, len(source), ENCODING_BATCH):
        chunk = source.pixels[start : start + ENCODING_BATCH].float() / 127.5 - 1
        parts.append(model.encode_images(chunk).cpu())
        told(start)
    moments = torch.cat(parts)
    if not moments.isfinite().all():
        raise RunError("The base's autoencoder gives values that are not finite; it may need fp32 weights.")
    return replace(source, pixels=None, moments=moments)


@torch.no_grad()
def with_prompts(source: Source, model: LatentDiffusion) -> Source:
    """The source with its different captions encoded, once."""
    known = {caption: row for row, caption in enumerate(dict.fromkeys(source.captions))}
    texts = list(known)
    parts = [
        model.encode_prompts(texts[i : i + ENCODING_BATCH]).to("cpu") for i in range(0, len(texts), ENCODING_BATCH)
    ]
    rows = torch.tensor([known[caption] for caption in source.captions])
    empty = model.encode_prompts([""]).to("cpu")
    return replace(source, conditioning=Conditioning.cat(parts), rows=rows, empty=empty)


def imagined(source: Source, model: LatentDiffusion, prompts: Sequence[str], count: int) -> Source:
    """`count` pictures of each prompt, drawn by the model itself, as examples: what it is not to forget.

    Prior preservation: Ruiz et al. 2023 (arXiv:2208.12242), section 3.2.
    """
    from ..evaluation.pictures import pictures as draw

    drawn = draw(model.pipeline("dpm++"), prompts, [seed_of(source.seed, "prior", k) for k in range(count)])
    pixels = torch.stack([torch.from_numpy(square(picture, picture.width)) for picture in drawn])
    captions = [prompt for prompt in prompts for _ in range(count)]
    return Source(source.seed, source.global_batch, captions, pixels=pixels, dropout=source.dropout)


def encoded(config: Any, model: LatentDiffusion) -> Source:
    """The folder of pictures with latents and prompts encoded: what recipes with a frozen text encoder train on."""
    return with_prompts(with_latents(pictures(config, model), model), model)
