"""What an autoencoder is told beyond the difference of pixels: a perceptual distance, and a critic of patches.

Both as latent diffusion has them (Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Perceptual(nn.Module):
    """The distance of pictures in the feature maps of a frozen network (Zhang et al. 2018, arXiv:1801.03924, eq. 1).

    The maps' channels are brought to length 1 and weigh alike, since learned weights exist for few networks.

    Args:
        network: of transformers, with hidden states of maps (N, C, h, w): ResNet, ConvNeXt.
        mean, std: what it expects of pictures in [0, 1], by channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Any, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @classmethod
    def load(cls, source: str) -> Perceptual:
        """A network by Hub id or folder. Raises RequestError: it is not there, or has no maps."""
        import transformers

        from ..errors import RequestError
        from ..evaluation.towers import POOLED, pretrained, processor

        def load(options: dict[str, Any]) -> Any:
            kind = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
            if kind not in POOLED:
                raise RequestError(f"{source} is of the kind {kind}; a perceptual distance takes {', '.join(POOLED)}.")
            return transformers.AutoModelForImageClassification.from_pretrained(source, **options)

        prepared = processor(source)
        return cls(pretrained(source, load).base_model, prepared.image_mean, prepared.image_std)

    def forward(self, pixels: Tensor, others: Tensor) -> Tensor:
        """The distance of each pair (B, 3, H, W) in [-1, 1]: (B,)."""
        maps = [self.network((x / 2 + 0.5 - self.mean) / self.std, output_hidden_states=True).hidden_states
                for x in (pixels, others)]  # fmt: skip
        levels = [
            (functional.normalize(a, dim=1) - functional.normalize(b, dim=1)).square().sum(1).mean((1, 2))
            for a, b in zip(*maps, strict=True)
        ]
        return torch.stack(levels).float().mean(0)


class PatchCritic(nn.Module):
    """Tells patches of real pictures from made ones (Isola et al. 2017, arXiv:1611.07004, section 3.2.2).

    Its loss trains both sides at once: on the way back through a made picture its sign is turned and it is weighed
    (Ganin & Lempitsky 2015, arXiv:1409.7495), so that what the critic learns from, the maker unlearns.
    """

    def __init__(self, seed: int = 0, width: int = 32) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2),
                nn.Conv2d(width, 2 * width, 4, 2, 1), nn.GroupNorm(8, 2 * width), nn.LeakyReLU(0.2),
                nn.Conv2d(2 * width, 4 * width, 3, 1, 1), nn.GroupNorm(8, 4 * width), nn.LeakyReLU(0.2),
                nn.Conv2d(4 * width, 1, 3, 1, 1),
            )  # fmt: skip

    def forward(self, real: Tensor, made: Tensor, weight: float) -> Tensor:
        """The hinge loss of each pair of pictures (B, 3, H, W): (B,). `weight`: of what reaches the maker."""
        sure = functional.relu(1 - self.layers(real)).mean((1, 2, 3))
        doubt = functional.relu(1 + self.layers(_Turned.apply(made, weight))).mean((1, 2, 3))
        return (sure + doubt).float()


class _Turned(torch.autograd.Function):
    """The same forwards; backwards the gradient times -weight."""

    @staticmethod
    def forward(ctx: Any, made: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return made.view_as(made)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradient, None
