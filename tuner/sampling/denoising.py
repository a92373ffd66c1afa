"""The denoising loop: diffusers' schedulers, the two passes of guidance in one batch, a picture to begin from, a part
of it to keep, and tiles where the picture is larger than what the base was trained on.

From a picture: Meng et al. 2022 (SDEdit, arXiv:2108.01073). Keeping a part: Lugmayr et al. 2022 (RePaint,
arXiv:2201.09865), eq. 8, without its resampling. Tiles whose predictions are joined at every step, so that all share
one state: Bar-Tal et al. 2023 (MultiDiffusion, arXiv:2302.08113).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from ..models.conditioning import Conditioning
from ..models.samplers import schedule, signal_at
from .conditions import Told
from .guidance import clean, guided, restated, thresholded
from .options import SamplingOptions
from .tiles import tiled

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Tick = Callable[[], None]
# (noisy latents, timestep, what the U-Net is told: text, and sizes; the step, of how many) -> what it is given besides
Hook = Callable[[Tensor, Tensor, Tensor, Mapping[str, Tensor] | None, int, int], Mapping[str, Any]]


@dataclass(frozen=True)
class Start:
    """What denoising begins from, where that is not noise alone.

    Attributes:
        latents: of a picture, (1, C, h, w).
        strength: how far to leave it, in (0, 1]; at 1 nothing but noise is left of it.
        painted: 1 where the picture is painted anew and 0 where it stays, (1, 1, h, w); None is everywhere.
    """

    latents: Tensor
    strength: float
    painted: Tensor | None = None


def denoise(
    pipe: StableDiffusionPipeline,
    noise: Tensor,
    told: Told,
    steps: int,
    generators: Sequence[Generator],
    how: SamplingOptions,
    start: Start | None = None,
    tile: int = 0,
    together: int = 1,
    tick: Tick = lambda: None,
    control: Hook | None = None,
) -> Tensor:
    """Noise (B, C, h, w) -> latents of pictures, (B, C, h, w), in fp32, by the pipeline's scheduler.

    Args:
        steps: of the whole way; from a picture only the last share of them is taken, its strength.
        generators: of the noise that stochastic samplers add, one a picture.
        tile: side of the tiles, in latents; 0 is without.
        together: pictures or tiles that the U-Net sees at once, at least.
        tick: called after each step.
        control: what control networks add to the U-Net's features; not in tiles.
    """
    scheduler: Any = pipe.scheduler
    noise = noise.to(pipe.unet.device, torch.float32)
    times = schedule(scheduler, steps, start.strength if start else 1.0, noise.device)
    begin, extra = len(scheduler.timesteps) - len(times), _extra(scheduler, how, generators)
    if start is None or start.strength == 1:
        latents = noise * scheduler.init_noise_sigma
    else:
        latents = _noised(scheduler, start, noise, times[0])
    assert not (control and tile), "tiles do not say where they are"
    predict = _predictor(pipe, told, how, tile or max(noise.shape[-2:]), together, control)
    for k, t in enumerate(times):
        noisy = scheduler.scale_model_input(latents, t)
        prediction = _bounded(scheduler, predict(noisy, t, k, len(times)), noisy, t, begin + k, how)
        latents = scheduler.step(prediction, t, latents, **extra, return_dict=False)[0]
        if start and start.painted is not None:
            last = k + 1 == len(times)
            kept = start.latents.expand_as(noise) if last else _noised(scheduler, start, noise, times[k + 1])
            latents = torch.where(start.painted > 0, latents, kept)
        tick()
    return latents


def _noised(scheduler: Any, start: Start, noise: Tensor, t: Tensor) -> Tensor:
    """The picture to begin from with the noise of a timestep, (B, C, h, w)."""
    return scheduler.add_noise(start.latents.expand_as(noise), noise, t.repeat(len(noise)))


def _bounded(scheduler: Any, prediction: Tensor, noisy: Tensor, t: Tensor, index: int, how: SamplingOptions) -> Tensor:
    """A prediction whose finished picture lies within the thresholds, where there are any."""
    if how.threshold == "none":
        return prediction
    signal, kind = signal_at(scheduler, index, t), scheduler.config.prediction_type
    x0 = thresholded(clean(prediction, noisy, signal, kind), how.threshold, how.percentile, how.threshold_at)
    return restated(x0, noisy, signal, kind)


def _extra(scheduler: Any, how: SamplingOptions, generators: Sequence[Generator]) -> dict[str, Any]:
    """What this scheduler's step takes besides: noise is drawn picture by picture, whatever else is in the batch."""
    takes = inspect.signature(scheduler.step).parameters
    every = {"eta": how.eta, "generator": list(generators)}
    return {name: value for name, value in every.items() if name in takes}


def _predictor(
    pipe: StableDiffusionPipeline, told: Told, how: SamplingOptions, tile: int, together: int, control: Hook | None
) -> Callable[[Tensor, Tensor, int, int], Tensor]:
    """(noisy latents (B, C, h, w), timestep, step, steps) -> the guided prediction, of the same shape, in fp32."""
    unet, rows = pipe.unet, [told.wanted] if told.unwanted is None else [told.unwanted, told.wanted]
    both = Conditioning.cat(rows)
    held = {p.dtype for p in unet.parameters() if p.is_floating_point()}
    dtype = torch.float32 if torch.float32 in held else held.pop()
    cond = _scale_told(pipe, told, dtype)

    def once(noisy: Tensor, t: Tensor, step: int, steps: int) -> Tensor:
        many = len(noisy) // len(both)
        hidden = both.hidden.repeat(many, 1, 1).to(noisy.device, dtype)
        added = None
        if both.pooled is not None:
            pooled = both.pooled.repeat(many, 1).to(noisy.device, dtype)
            added = {"text_embeds": pooled, "time_ids": _sizes(pipe, noisy).to(dtype)}
        with _one_precision(pipe):
            steered = control(noisy.to(dtype), t, hidden, added, step, steps) if control else {}
            return unet(
                noisy.to(dtype), t, encoder_hidden_states=hidden, added_cond_kwargs=added,
                timestep_cond=None if cond is None else cond.expand(len(noisy), -1), return_dict=False, **steered,
            )[0].float()  # fmt: skip

    def predict(noisy: Tensor, t: Tensor, step: int, steps: int) -> Tensor:
        doubled = torch.cat([noisy] * len(rows))
        work = lambda cut: once(cut, t, step, steps)  # noqa: E731
        parts = tiled(doubled, tile, work, together * len(rows)).chunk(len(rows))
        return parts[0] if len(rows) == 1 else guided(parts[0], parts[1], told.guidance, how.guidance_rescale)

    return predict


def _scale_told(pipe: StableDiffusionPipeline, told: Told, dtype: torch.dtype) -> Tensor | None:
    """The guidance's scale as an embedding, (1, D), for the U-Nets that were distilled with it (LCM)."""
    width = pipe.unet.config.time_cond_proj_dim
    if width is None:
        return None
    scale = torch.tensor([told.guidance - 1])
    return pipe.get_guidance_scale_embedding(scale, embedding_dim=width).to(pipe.unet.device, dtype)


def _sizes(pipe: StableDiffusionPipeline, latents: Tensor) -> Tensor:
    """Original size, crop and target size of uncropped pictures, (B, 6): Podell et al. 2023 (SDXL), section 2.2."""
    height, width = (side * pipe.vae_scale_factor for side in latents.shape[-2:])
    return latents.new_tensor([height, width, 0, 0, height, width]).expand(len(latents), -1)


def _one_precision(pipe: StableDiffusionPipeline) -> AbstractContextManager[object]:
    """A U-Net that is held partly in half precision computes in it."""
    held = [p.dtype for p in pipe.unet.parameters() if p.is_floating_point()]
    half = next((dtype for dtype in held if dtype != torch.float32), None)
    if half is None or len(set(held)) == 1:
        return nullcontext()
    return torch.autocast(pipe.unet.device.type, half)
