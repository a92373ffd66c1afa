"""Teaches the base's text encoder which side of the picture a word is on, before the U-Net makes use of it.

Of "a dog left of a car" a base learns soon that there are two things beside each other, and hardly ever which is where:
left and right have to part in what the words become, in what the pixels look for, and in both at once, and as long as
neither has, nothing draws the other on. (Measured: after 4,800 steps, half of them on such scenes, the noise was
predicted as well under the swapped prompt, and the embeddings of "left" and "right" had a cosine of 0.91.) So the text
encoder is told first, by itself: the states of the second subject's words get a component that says its side, and all
other states stay as they are. The U-Net, which knows where its pixels are, then takes it up within a hundred steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..models.latent_diffusion import LatentDiffusion
from ..randomness import generator
from . import emoji, mixture, world
from .teach import teach

SEED = 8901  # of the scenes whose captions are read; no picture is drawn
LENGTH = 4.0  # of what is added to a state; states are about 10 long
SIDES = {"left of": 1, "right of": 0, "above": 3, "below": 2}  # of the other one: left, right, top, bottom


def train(model: LatentDiffusion, steps: int = 1000, count: int = 12000, batch_size: int = 64) -> None:
    """Train the text encoder of a model in place: two minutes on one CPU core."""
    encoder, before = model.text_encoder, deepcopy(model.text_encoder)
    scenes = [it for it in islice(mixture.mixture(SEED, 10**9), 4 * count) if not it.words]
    related = [it for it in scenes if it.other][: 2 * count // 3]
    ids, sides = marked(model.tokenizer, related + [it for it in scenes if not it.other][: count // 3])
    said = torch.cat([LENGTH * directions(encoder.config.hidden_size), torch.zeros(1, encoder.config.hidden_size)])

    def loss(step: int) -> Tensor:
        rows = torch.randint(len(ids), (batch_size,), generator=generator("grammar", SEED, step))
        with torch.no_grad():
            wanted = before(ids[rows]).last_hidden_state + said[sides[rows]]
        error = (encoder(ids[rows]).last_hidden_state - wanted).square().sum(-1)
        return error.mean() + error[sides[rows] >= 0].mean()

    trained = [parameter.requires_grad for parameter in encoder.parameters()]
    encoder.requires_grad_(True)
    teach(encoder, loss, steps, learning_rate=1e-3)
    for parameter, was in zip(encoder.parameters(), trained, strict=True):
        parameter.requires_grad_(was)


def directions(width: int) -> Tensor:
    """What says left, right, top, bottom, (4, width): of length 1, opposite sides opposite."""
    across, along = torch.linalg.qr(torch.randn(width, 2, generator=generator("grammar", SEED)))[0].T
    return torch.stack([across, -across, along, -along])


def marked(tokenizer: Any, scenes: Sequence[world.Scene]) -> tuple[Tensor, Tensor]:
    """The tokens of captions, (N, T), and for each the side that its word is on, (N, T): -1 where nothing says it."""
    texts = [world.caption(it) for it in scenes]
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length).input_ids
    names = {name: tokenizer(name, add_special_tokens=False).input_ids for name in emoji.table()}
    sides = torch.full((len(ids), len(ids[0])), -1)
    for row, (tokens, it) in enumerate(zip(ids, scenes, strict=True)):
        if it.other:
            name = names[it.other]
            places = (k for k in range(len(tokens) - len(name), -1, -1) if tokens[k : k + len(name)] == name)
            begin = next(places, len(tokens))
            sides[row, begin : begin + len(name)] = SIDES[it.relation]
    return torch.tensor(ids), sides
