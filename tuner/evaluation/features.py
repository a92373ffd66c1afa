"""Networks in whose features pictures are compared: the bundled judge, or a vision tower by Hub id or folder.

A tower is any CLIP, SigLIP, DINO, DINOv2, ViT, ResNet or ConvNeXt in transformers' format, with safetensors: no
pickle is read and no code of a repository is run. Pictures are prepared by transformers' Pillow processors, so
torchvision is not needed and is not used where it is there.

Inception, whose features make a Fréchet distance an FID, is not among them: the weights that the field uses exist as a
TensorFlow graph, a TorchScript archive and pickles, and what is in safetensors is timm's Inception, which needs
torchvision and holds other weights. Whoever has it passes any object of the protocol `Features` named "Inception".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import RequestError
from .judge import Judge, pixels

BUNDLED = "judge"  # the name by which the bundled judge is asked for


class Features(Protocol):
    """Where distances are measured. Any object that has these will do."""

    name: str
    """What figures are named after: "judge", "dinov2-base"; "Inception" makes them FID, KID and IS."""

    def __call__(self, pictures: Tensor) -> Tensor:
        """Features (B, D) of pictures (B, 3, H, W) in [0, 1], whatever their size."""

    def probabilities(self, pictures: Tensor) -> Tensor:
        """Class probabilities (B, classes), for the Inception Score; RequestError where it knows no classes."""


class JudgeFeatures:
    """The bundled judge's: D = 128, of length 1, what the subject is. They hardly see backgrounds and styles.

    For likeness to a subject; distances between sets are for `JudgeLooks`.
    """

    name = BUNDLED

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def __call__(self, pictures: Tensor) -> Tensor:
        return self.judge.features(self._pixels(pictures))

    def probabilities(self, pictures: Tensor) -> Tensor:
        """Of its subjects."""
        return self.judge(self._pixels(pictures)).subject.softmax(dim=1)

    def _pixels(self, pictures: Tensor) -> Tensor:
        return pixels(images(pictures)).to(self.judge.project.weight.device)


class JudgeLooks(JudgeFeatures):
    """The bundled judge's at all of its levels: subject, background, style and sharpness. D = 416, mean square 1."""

    def __call__(self, pictures: Tensor) -> Tensor:
        return self.judge.looks(self._pixels(pictures))


def network(source: str = BUNDLED, device: torch.device | str = "cpu") -> Features:
    """`judge`, or a Hub id or folder of a vision tower. Figures are named after the last part of it.

    Raises:
        RequestError: it is not there, is of an unknown kind, or is not whole.
    """
    if source == BUNDLED:
        return JudgeLooks(Judge.load().to(device))
    from .towers import TowerFeatures

    return TowerFeatures.load(source, device)


@torch.no_grad()
def collect(read: Callable[[Tensor], Tensor], pictures: Iterable[Image.Image], batch_size: int = 32) -> np.ndarray:
    """Features or probabilities of all pictures: float64, (N, D). Sizes may differ; batches hold one size each.

    Args:
        read: a network, or its `probabilities`.
        pictures: RGB; an iterator is read as it goes, so that no more than a batch is held.

    Raises:
        RequestError: there are no pictures, or a feature is not finite.
    """
    found = [read(tensor(batch)).double().cpu().numpy() for batch in _batches(pictures, batch_size)]
    if not found:
        raise RequestError("There are no pictures to measure; give a set of at least one.")
    table = np.concatenate(found)
    if not np.isfinite(table).all():
        raise RequestError(
            f"The features of {getattr(read, 'name', 'the network')} are not finite; its weights are bad."
        )
    return table


def tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as float32 (B, 3, H, W) in [0, 1].

    Raises:
        RequestError: there are none, or their sizes differ.
    """
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) != 1:
        told = " and ".join(f"{wide} x {high}" for wide, high in sizes[:2]) or "no pictures"
        raise RequestError(f"Pictures of one size are needed here, and these are {told}; scale them first.")
    stack = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float().div(255)


def images(pictures: Tensor) -> list[Image.Image]:
    """The inverse of `tensor`: (B, 3, H, W) in [0, 1], to 8 bits.

    Raises:
        RequestError: another shape, or values that are not finite or not in [0, 1].
    """
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise RequestError(f"Pictures of the shape {tuple(pictures.shape)} cannot be read; (B, 3, H, W) is needed.")
    if pictures.numel() and not (pictures.isfinite().all() and pictures.min() >= 0 and pictures.max() <= 1):
        raise RequestError("Pictures hold values that are not between 0 and 1, or not finite.")
    rows = pictures.detach().mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(row) for row in rows]


def _batches(pictures: Iterable[Image.Image], size: int) -> Iterator[list[Image.Image]]:
    """Runs of pictures of one size, in order, at most `size` at once."""
    batch: list[Image.Image] = []
    for picture in pictures:
        if batch and (len(batch) == size or picture.size != batch[0].size):
            yield batch
            batch = []
        batch.append(picture)
    if batch:
        yield batch
