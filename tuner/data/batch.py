"""One micro-batch of training examples."""

from dataclasses import dataclass

from torch import Tensor

from ..models.conditioning import Conditioning
from ..randomness import Draws


@dataclass(frozen=True)
class Batch:
    """B examples of one size and the randomness that belongs to them.

    Attributes:
        draw: the examples' random draws.
        captions: the prompts in words, as the data gave them (B).
        moments: mean and log variance of the autoencoder's posterior, (B, 2C, h, w), where pictures were encoded.
        pixels: (B, 3, H, W) in [-1, 1], where they were not.
        conditioning: the encoded captions, where the text encoder is frozen.
        weight: the examples' shares of the loss, (B,); all 1 where absent.
        sizes: original height and width, crop top and left in the scaled picture, target height and width, in pixels:
            (B, 6), integers. SDXL's micro-conditioning (Podell et al. 2023, arXiv:2307.01952, section 2.2).
        control: what the pictures are to be steered by, pixel for pixel, (B, 3, H, W) in [0, 1], where there is such.
    """

    draw: Draws
    captions: tuple[str, ...]
    moments: Tensor | None = None
    pixels: Tensor | None = None
    conditioning: Conditioning | None = None
    weight: Tensor | None = None
    sizes: Tensor | None = None
    control: Tensor | None = None

    def __len__(self) -> int:
        return len(self.captions)
