"""The search for words before a prompt: its gradient, and that what it finds explains the pictures better."""

import pytest
import torch

from tuner.evaluation.prefix import _Search, prefix
from tuner.models.latent_diffusion import LatentDiffusion


@pytest.fixture(scope="module")
def model(tiny_base):
    return LatentDiffusion.load(tiny_base)


@pytest.fixture(scope="module")
def moments(model):
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.no_grad():
        return model.encode_images(pixels)


def test_the_promise_is_the_slope_of_the_loss(model, moments):
    """A small step from one word's vector to another's changes the loss by the difference of their promises."""
    search, words = _Search(model, moments, "a dog", 0), ["red", "photo"]
    promise, table = search.promise(words, 1), model.text_encoders[0].get_input_embeddings()
    now, other = search.words.index("photo"), search.words.index("bear")
    kept = table.weight.detach().clone()
    ids, step, losses = search._ids, 1e-2, []
    try:
        for sign in (-1, 1):
            with torch.no_grad():
                table.weight[ids[now]] = kept[ids[now]] + sign * step * (kept[ids[other]] - kept[ids[now]])
            losses.append(search.loss(words))
    finally:
        with torch.no_grad():
            table.weight.copy_(kept)
    slope = (losses[1] - losses[0]) / (2 * step)
    assert slope == pytest.approx(-(promise[other] - promise[now]).item(), rel=0.05, abs=1e-6)


def test_what_is_found_is_text_that_explains_better(model, moments):
    search = _Search(model, moments, "a dog", 7)
    found = prefix(model, moments, "a dog", count=3, steps=6, seed=7)
    assert len(found.split()) == 3 and set(found.split()) <= set(search.words)
    assert search.loss(found.split()) < search.loss(prefix(model, moments, "a dog", count=3, steps=0, seed=7).split())
    assert found == prefix(model, moments, "a dog", count=3, steps=6, seed=7)
    tokens = model.tokenizers[0](f"{found} a dog", add_special_tokens=False).input_ids
    assert len(tokens) == 5  # as many words as it says, each of them one token
