"""Sources of training examples. Which example stands where is a pure function of the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..models.conditioning import Conditioning
from ..randomness import Draws
from .audit import audit, check_usable
from .batch import Batch
from .cache import Cache
from .conditions import with_conditions as with_conditions
from .encoding import with_latents as with_latents
from .encoding import with_pixels as with_pixels
from .encoding import with_prompts as with_prompts
from .findings import findings, overlong, sizes_of
from .glance import Reader
from .options import DataOptions as DataOptions
from .order import Order
from .prior import imagined as imagined
from .rows import Rows

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion


@dataclass(frozen=True)
class Source:
    """The examples of a run.

    Attributes:
        seed: the run's.
        global_batch: examples to an optimizer step, over all micro-batches and processes.
        captions: one an example (N).
        moments: the posterior of each picture, N rows of (2C, h, w), or
        pixels: the pictures, N rows of uint8 (3, H, W). Rows are read when they are asked for.
        controls: what each picture is steered by, N rows of uint8 (1 or 3, H, W), where there is such.
        sizes: original height and width, crop top and left, target height and width of each picture, (N, 6). Examples
            with the same target are a bucket.
        conditioning, rows: the different captions, encoded once, and each example's row among them, (N,).
        empty: the conditioning of the empty caption, one row.
        dropout: share of the examples whose caption is left out.
        skipped: a clause for each picture that could not be used.
        notes: sentences about the examples that the user should know.
        prior: how many of the examples, the last ones, the base itself has drawn.
        visits: the examples that an epoch visits, (V,), where some are visited more often than others.
        cache: where what was encoded is kept.
    """

    seed: int
    global_batch: int
    captions: list[str]
    moments: Rows | None = None
    pixels: Rows | None = None
    controls: Rows | None = None
    sizes: Tensor | None = None
    conditioning: Conditioning | None = None
    rows: Tensor | None = None
    empty: Conditioning | None = None
    dropout: float = 0.0
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    prior: int = 0
    visits: Tensor | None = None
    cache: Cache = field(default_factory=Cache)

    def __len__(self) -> int:
        return len(self.captions)

    @cached_property
    def _order(self) -> Order:
        visits = (torch.arange(len(self)) if self.visits is None else self.visits).numpy()
        if self.sizes is None:
            return Order(self.seed, [visits])
        targets = self.sizes[:, 4:].numpy()
        _, bucket = np.unique(targets, axis=0, return_inverse=True)
        return Order(self.seed, [visits[bucket[visits] == b] for b in range(bucket.max() + 1)])

    def batch(self, step: int, positions: Sequence[int], device: torch.device | str = "cpu") -> Batch:
        """The examples at `positions` of the global batch of optimizer step `step` (from 0), all of one bucket."""
        index = self._order.examples(step, positions, self.global_batch)
        draw = Draws.at(self.seed, step, positions, device)
        keep = draw.here.uniform("caption dropout") >= self.dropout
        pixels = None if self.pixels is None else self.pixels.take(index).to(device).float() / 127.5 - 1
        moments = None if self.moments is None else self.moments.take(index).to(device)
        captions = tuple(self.captions[i] if kept else "" for i, kept in zip(index, keep.tolist(), strict=True))
        conditioning = None
        if self.conditioning is not None and self.rows is not None and self.empty is not None:
            known = self.conditioning[self.rows[index]].to(device)
            conditioning = known.where(keep.to(device), self.empty.to(device)) if self.dropout else known
        sizes = None if self.sizes is None else self.sizes[index].to(device)
        control = None
        if self.controls is not None:
            control = self.controls.take(index).to(device).float().expand(-1, 3, -1, -1) / 255
        return Batch(draw, captions, moments, pixels, conditioning, sizes=sizes, control=control)

    def only(self, index: Sequence[int], skipped: Sequence[str]) -> Source:
        """Some of the examples, before their captions are encoded; `skipped` says why the others are not used."""
        place = torch.full((len(self),), -1)
        place[list(index)] = torch.arange(len(index))
        visits = None if self.visits is None else place[self.visits]
        return replace(
            self,
            captions=[self.captions[i] for i in index],
            pixels=None if self.pixels is None else self.pixels.only(index),
            controls=None if self.controls is None else self.controls.only(index),
            sizes=None if self.sizes is None else self.sizes[list(index)],
            visits=None if visits is None else visits[visits >= 0],
            skipped=(*self.skipped, *skipped),
        )

    def of(self, captions: list[str], pixels: Rows, sizes: Tensor) -> Source:
        """A source like this one, of other pictures."""
        return Source(
            self.seed, self.global_batch, captions, pixels=pixels, sizes=sizes, dropout=self.dropout, cache=self.cache
        )

    def with_prior(self, prior: Source) -> Source:
        """These examples and, about as often, those of `prior`: every epoch repeats the fewer to match the more."""
        mine, its = (torch.arange(len(one)) if one.visits is None else one.visits for one in (self, prior))
        more = max(len(mine), len(its))
        visits = torch.cat([part.repeat(round(more / len(part))) for part in (mine, its + len(self))])
        notes = tuple(dict.fromkeys([*self.notes, *prior.notes]))
        both = replace(self, captions=self.captions + prior.captions, prior=len(prior), visits=visits, notes=notes)
        assert self.moments is not None and prior.moments is not None
        assert self.sizes is not None and prior.sizes is not None
        both = replace(both, moments=self.moments + prior.moments, sizes=torch.cat([self.sizes, prior.sizes]))
        if self.conditioning is None or prior.conditioning is None or self.rows is None or prior.rows is None:
            return both
        rows = torch.cat([self.rows, prior.rows + len(self.conditioning)])
        return replace(both, conditioning=Conditioning.cat([self.conditioning, prior.conditioning]), rows=rows)


def pictures(config: Any, model: LatentDiffusion) -> Source:
    """The pictures of `--images` as they are. Their bytes are read once, and decoded when their pixels are asked for.

    Raises:
        RequestError: no data set, no picture, none without fault, or a caption that cannot be read.
        RunError: more than max(3, 1%) of the pictures cannot be used.
    """
    found = audit(config, config.resolution or model.resolution, model.unit)
    check_usable(found)
    repeats = torch.tensor([picture.example.repeats for picture in found.pictures])
    points = [*findings(found), *overlong(found, Reader.of(model.tokenizers[0]))]
    notes = [point.sentence() for point in points if point.grade in ("warning", "note")]
    sizes = sizes_of(found)
    if len(sizes) > 1:
        listed = ", ".join(f"{width} x {height} ({count})" for (width, height), count in sizes.items())
        notes.insert(0, f"{len(sizes)} buckets, with their visits in an epoch: {listed}.")
    return Source(
        config.seed, _global_batch(config), found.captions(),
        pixels=Rows(found.pictures), sizes=torch.tensor([picture.place.sizes for picture in found.pictures]),
        dropout=config.caption_dropout, skipped=tuple(found.left_out), notes=tuple(notes),
        visits=None if (repeats == 1).all() else torch.arange(len(repeats)).repeat_interleave(repeats),
        cache=Cache.of(config),
    )  # fmt: skip


def _global_batch(config: Any) -> int:
    world = int(torch.distributed.get_world_size()) if torch.distributed.is_initialized() else 1
    return int(config.batch_size * config.accumulate * world)


def drawn(config: Any, model: LatentDiffusion, prompts: Sequence[str], count: int) -> Source:
    """`count` pictures of each prompt that the base itself draws, encoded: for recipes that need no folder."""
    empty = Source(config.seed, _global_batch(config), [], dropout=config.caption_dropout, cache=Cache.of(config))
    return with_latents(imagined(empty, model, prompts, count, apart=True), model)


def encoded(config: Any, model: LatentDiffusion) -> Source:
    """The folder of pictures with latents and prompts encoded: what recipes with a frozen text encoder train on."""
    return with_prompts(with_latents(pictures(config, model), model), model)


def conditioned(config: Any, model: LatentDiffusion) -> Source:
    """The same with a condition beside each picture (`--condition`), and `--prompt-dropout`: for control networks."""
    source = replace(pictures(config, model), dropout=config.prompt_dropout)
    source = with_conditions(source, config.condition, config.images)
    return with_prompts(with_latents(source, model), model)


def preserving(config: Any, model: LatentDiffusion, prompts: bool = True) -> Source:
    """The folder's examples and, as often, pictures of the class prompts that the base itself draws (`PriorOptions`).

    Args:
        prompts: encode the captions, too; not where the text encoders train.
    """

    def encode(source: Source) -> Source:
        source = with_latents(source, model)
        return with_prompts(source, model) if prompts else source

    source = encode(pictures(config, model))
    if not config.class_prompt:
        return source
    return source.with_prior(encode(imagined(source, model, config.class_prompt, config.class_images)))
