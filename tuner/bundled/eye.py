"""Trains the network in whose maps the base's autoencoder compares pictures: a small ConvNeXt, no judge.

It learns to tell the subjects of scenes of its own seeds. It is needed while the base is trained and is not kept.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..files import replacing, write_text
from ..randomness import generator
from . import emoji, world
from .lessons import pictures
from .teach import teach

SEED = 7301
PREPARED = {"image_processor_type": "ConvNextImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def train(out: Path, steps: int = 600, count: int = 8000, batch_size: int = 48, learning_rate: float = 2e-3) -> None:
    """Train it and write it as a folder of transformers: some minutes on one CPU core."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    names = list(emoji.KNOWN)
    scenes = list(world.scenes(SEED, count, names))
    pixels, classes = pictures(scenes), torch.tensor([names.index(it.subject) for it in scenes])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        config = ConvNextConfig(
            patch_size=2, num_stages=3, hidden_sizes=[32, 64, 128], depths=[1, 1, 2], num_labels=len(names),
            drop_path_rate=0.0, layer_scale_init_value=1.0, image_size=64,
        )  # fmt: skip
        network = ConvNextForImageClassification(config)

    def loss(step: int) -> Tensor:
        rows = torch.randint(len(pixels), (batch_size,), generator=generator("eye", SEED, step))
        logits = network(pixels[rows].float() / 127.5 - 1).logits
        return functional.cross_entropy(logits, classes[rows], label_smoothing=0.1)

    teach(network, loss, steps, learning_rate)
    with replacing(out) as part:
        network.save_pretrained(part)
        write_text(part / "preprocessor_config.json", json.dumps(PREPARED))
