"""How near pictures are to the very pictures they should equal: PSNR and SSIM, for aligned pairs.

Both are a few lines and need no package. LPIPS (Zhang
et al. 2018, arXiv:1801.03924) is left out: its backbones are torchvision's and all of its weights are pickles.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import RequestError

WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian, in pixels
LUMINANCE, CONTRAST = 0.01**2, 0.03**2  # C1 and C2, for pictures in [0, 1]


@torch.no_grad()
def psnr(pictures: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, 10 log10(1 / mean squared error), of (B, 3, H, W) in [0, 1]: decibels, (B,).

    Equal pictures have an infinite one.

    Raises:
        RequestError: the pictures are not pairs of one size, or hold values outside of [0, 1].
    """
    ours, theirs = _pairs(pictures, references)
    return -10 * (ours - theirs).square().mean(dim=(1, 2, 3)).log10()


@torch.no_grad()
def ssim(pictures: Tensor, references: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13, averaged as eq. 17) of (B, 3, H, W) in [0, 1]: (B,), 1 is equal.

    Per channel, then the mean; windows that reach over the border do not count. As scikit-image's with
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.

    Raises:
        RequestError: as `psnr`, or a side is under 11 pixels.
    """
    ours, theirs = _pairs(pictures, references)
    if min(ours.shape[2:]) < WINDOW:
        high, wide = ours.shape[2:]
        raise RequestError(f"SSIM needs pictures of {WINDOW} pixels a side at least, and these are {wide} x {high}.")
    ours, theirs = ours.flatten(0, 1).unsqueeze(1), theirs.flatten(0, 1).unsqueeze(1)  # (B * 3, 1, H, W)
    a, b = _smooth(ours), _smooth(theirs)
    aa, bb, ab = (_smooth(x * y) for x, y in ((ours, ours), (theirs, theirs), (ours, theirs)))
    likeness = (2 * a * b + LUMINANCE) * (2 * (ab - a * b) + CONTRAST)
    size = (a * a + b * b + LUMINANCE) * ((aa - a * a) + (bb - b * b) + CONTRAST)
    return (likeness / size).unflatten(0, (-1, 3)).mean(dim=(1, 2, 3, 4))


def _smooth(channels: Tensor) -> Tensor:
    """The Gaussian mean of every whole window: (N, 1, H, W) -> (N, 1, H - 10, W - 10)."""
    places = torch.arange(WINDOW, dtype=channels.dtype, device=channels.device) - WINDOW // 2
    weights = torch.exp(-(places / SIGMA).square() / 2)
    weights = weights / weights.sum()
    across = functional.conv2d(channels, weights.view(1, 1, 1, -1))
    return functional.conv2d(across, weights.view(1, 1, -1, 1))


def _pairs(pictures: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64."""
    if pictures.shape != references.shape or pictures.ndim != 4 or pictures.shape[1] != 3 or not len(pictures):
        shapes = f"{tuple(pictures.shape)} and {tuple(references.shape)}"
        raise RequestError(
            f"Pictures of the shapes {shapes} are not pairs; give as many of the same size, (B, 3, H, W)."
        )
    for one in (pictures, references):
        if not (one.isfinite().all() and one.min() >= 0 and one.max() <= 1):
            raise RequestError("Pictures hold values that are not between 0 and 1, or not finite.")
    return pictures.double(), references.double()
