"""What is done to the model's predictions before a step is taken. All tensors are (B, C, h, w).

Classifier-free guidance: Ho & Salimans 2022 (arXiv:2207.12598). Its rescaling: Lin et al. 2023 (arXiv:2305.08891),
section 3.4. Thresholding: Saharia et al. 2022 (Imagen, arXiv:2205.11487), section 2.3.

Imagen works on pixels, whose range is [-1, 1]. Latents have no range; the bases scale them to a deviation of 1, and
those of a real picture end at about 3 of it (60 pictures on the bundled base: 3.0 on average; 0.6% of all values lie
beyond). So thresholds count in a unit of so many deviations: x0 / unit is treated as Imagen treats pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["static", "dynamic"]


def guided(unwanted: Tensor, wanted: Tensor, scale: float | Tensor, rescale: float = 0.0) -> Tensor:
    """Guidance from the prediction of the negative prompt through that of the prompt.

    Args:
        unwanted, wanted: the two predictions.
        scale: 1 is the prompt's own prediction; one for all, or one each, (B, 1, 1, 1).
        rescale: Lin et al.'s phi: how much of the result has the deviation of the prompt's own prediction (eq. 15, 16).
    """
    mixed = unwanted + scale * (wanted - unwanted)
    if not rescale:
        return mixed
    own, grown = wanted.std((1, 2, 3), keepdim=True), mixed.std((1, 2, 3), keepdim=True)
    return rescale * (mixed * own / grown) + (1 - rescale) * mixed


def clean(prediction: Tensor, noisy: Tensor, signal: Tensor, kind: str) -> Tensor:
    """The finished latents x0 that a prediction amounts to.

    Args:
        prediction: of the kind `epsilon`, `v_prediction` or `sample`.
        noisy: sqrt(abar) x0 + sqrt(1 - abar) noise.
        signal: abar, a scalar.
    """
    if kind == "sample":
        return prediction
    if kind == "v_prediction":
        return signal.sqrt() * noisy - (1 - signal).sqrt() * prediction
    return (noisy - (1 - signal).sqrt() * prediction) / signal.sqrt()


def restated(x0: Tensor, noisy: Tensor, signal: Tensor, kind: str) -> Tensor:
    """The prediction of a kind that amounts to x0: what `clean` undoes."""
    if kind == "sample":
        return x0
    if kind == "v_prediction":
        return (signal.sqrt() * noisy - x0) / (1 - signal).sqrt()
    return (noisy - signal.sqrt() * x0) / (1 - signal).sqrt()


def thresholded(x0: Tensor, kind: Kind, percentile: float, unit: float = 1.0) -> Tensor:
    """x0 kept within bounds, in units of `unit`.

    static: clipped to [-1, 1]. dynamic: s is the percentile of |x0| in each picture; where s > 1, x0 is clipped to
    [-s, s] and divided by s; elsewhere it is clipped to [-1, 1].

    Args:
        percentile: in percent.
    """
    scaled = x0 / unit
    if kind == "static":
        return scaled.clamp(-1, 1) * unit
    bound = torch.quantile(scaled.abs().flatten(1).float(), percentile / 100, 1).clamp(min=1).to(x0)
    bound = bound.view(-1, 1, 1, 1)
    return scaled.clamp(-bound, bound) / bound * unit
