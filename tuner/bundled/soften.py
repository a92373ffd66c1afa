"""Makes real scenes look as a model might draw them: a little bent, soft, noisy and off in colour; some ruined."""

import torch
from torch import Generator, Tensor
from torch.nn import functional


def soften(pixels: Tensor, random: Generator, fixed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Alter a batch mildly, a third of it in its colours alone. Subject, background and style stay what they are.

    Args:
        pixels: (B, 3, H, W) in [-1, 1].
        random: where all draws come from.
        fixed: bool (B,), which of them may not be mirrored, as left and right matter.

    Returns:
        The altered pixels, (B, 3, H, W), and which of them are ruined, bool (B,): emptied, or cut up and put together
        wrongly, so that they show no subject any more.
    """
    fate = torch.rand(len(pixels), generator=random)
    pixels = _where(fate < 0.06, _shuffled(pixels, random), pixels)
    pixels = _where(fate < 0.02, pixels[:, :, :1, :1].expand_as(pixels), pixels)  # the corner: background alone
    softened = _blurred(_rescaled(_bent(pixels, random, fixed), random), random)
    shown = _coloured(_where(torch.rand(len(pixels), generator=random) < 0.67, softened, pixels), random)
    noise = torch.randn(shown.shape, generator=random) * _uniform(len(shown), 0, 0.04, random)[:, None, None, None]
    return (shown + noise).clamp(-1, 1), fate < 0.06


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], one, other)


def _uniform(count: int, low: float, high: float, random: Generator) -> Tensor:
    return torch.empty(count).uniform_(low, high, generator=random)


def _shuffled(pixels: Tensor, random: Generator, parts: int = 4) -> Tensor:
    """The picture's squares in another order."""
    size = pixels.shape[-2:]
    side = size[0] // parts
    squares = functional.unfold(pixels, side, stride=side)
    order = torch.randperm(parts * parts, generator=random)
    return functional.fold(squares[:, :, order], size, side, stride=side)


def _bent(pixels: Tensor, random: Generator, fixed: Tensor | None) -> Tensor:
    """Mirrored, turned, stretched, moved by a few percent, and warped by up to about a pixel."""
    count, _, side, _ = pixels.shape
    angle = _uniform(count, -0.05, 0.05, random)
    wide, high = _uniform(count, 0.94, 1.06, random), _uniform(count, 0.94, 1.06, random)
    mirror = torch.where(torch.rand(count, generator=random) < 0.5, -1.0, 1.0)
    mirror = mirror if fixed is None else torch.where(fixed, 1.0, mirror)
    move = torch.empty(count, 2).uniform_(-0.05, 0.05, generator=random)
    across = torch.stack([mirror * wide * angle.cos(), -high * angle.sin(), move[:, 0]], dim=1)
    down = torch.stack([wide * angle.sin(), high * angle.cos(), move[:, 1]], dim=1)
    grid = functional.affine_grid(torch.stack([across, down], dim=1), list(pixels.shape), align_corners=False)
    waves = torch.randn(count, 2, 6, 6, generator=random) * _uniform(count, 0, 0.035, random)[:, None, None, None]
    warp = functional.interpolate(waves, (side, side), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    return functional.grid_sample(pixels, grid + warp, padding_mode="border", align_corners=False)


def _rescaled(pixels: Tensor, random: Generator) -> Tensor:
    """A third of the pictures, reduced and enlarged again."""
    side = pixels.shape[-1]
    small = int(torch.randint(side * 3 // 4, side, (), generator=random))
    chosen = torch.rand(len(pixels), generator=random) < 0.33
    reduced = functional.interpolate(pixels, (small, small), mode="bilinear", antialias=True)
    back = functional.interpolate(reduced, (side, side), mode="bicubic", align_corners=False)
    return _where(chosen, back, pixels)


def _blurred(pixels: Tensor, random: Generator, reach: int = 2) -> Tensor:
    """Half of the pictures under a Gaussian of up to 0.9 pixels."""
    count, channels, side, _ = pixels.shape
    sigma = _uniform(count, -0.9, 0.9, random).clamp(min=0.05)
    taps = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma[:, None] ** 2))
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = functional.pad(pixels.reshape(1, count * channels, side, side), (reach,) * 4, mode="replicate")
    flat = functional.conv2d(flat, taps[:, None, None, :], groups=count * channels)
    return functional.conv2d(flat, taps[:, None, :, None], groups=count * channels).reshape(pixels.shape)


def _coloured(pixels: Tensor, random: Generator) -> Tensor:
    """Contrast and each channel's level off by a few percent."""
    contrast = torch.empty(len(pixels), 1, 1, 1).uniform_(0.92, 1.06, generator=random)
    level = torch.empty(len(pixels), 3, 1, 1).uniform_(-0.08, 0.08, generator=random)
    return pixels * contrast + level
