"""The text encoder's lesson in left and right: which words are marked, and that only their states change."""

import pytest
import torch

from tuner.bundled import grammar, mixture, world
from tuner.models.latent_diffusion import LatentDiffusion


@pytest.fixture(scope="module")
def model():
    return LatentDiffusion.load("emoji")


@pytest.mark.parametrize(
    ("relation", "side"), [("left of", "right"), ("right of", "left"), ("above", "bottom"), ("below", "top")]
)
def test_the_second_subject_s_words_are_marked(model, relation, side):
    it = world.Scene("police car", "red", relation=relation, other="fire truck")
    ids, sides = grammar.marked(model.tokenizer, [it, world.Scene("police car", "red")])
    words = model.tokenizer.convert_ids_to_tokens(ids[0])
    marked = {words[k].removesuffix("</w>"): ("left", "right", "top", "bottom")[sides[0, k]] for k in range(len(words))
              if sides[0, k] >= 0}  # fmt: skip
    assert marked == {"fire": side, "truck": side} and (sides[1] == -1).all()


def test_every_caption_that_fits_is_marked(model):
    scenes = [it for it in mixture.mixture(3, 400) if it.other and not it.words]
    _, sides = grammar.marked(model.tokenizer, scenes)
    assert (sides >= 0).any(1).float().mean() > 0.99


def test_opposite_sides_are_told_by_opposite_directions():
    across, back, along, down = grammar.directions(32)
    assert torch.allclose(across, -back) and torch.allclose(along, -down) and abs(across @ along) < 1e-6
    assert across.norm() == pytest.approx(1)


def test_states_of_marked_words_move_and_others_stay(model):
    it = world.Scene("dog", "red", relation="left of", other="car")
    prompts = [world.caption(it), "a dog on a red background"]
    _, sides = grammar.marked(model.tokenizer, [it])
    word = int((sides[0] >= 0).nonzero()[0, 0])
    with torch.no_grad():
        before = model.encode_prompts(prompts).hidden
    grammar.train(model, steps=60, count=600, batch_size=16)
    with torch.no_grad():
        after = model.encode_prompts(prompts).hidden
    moved = (after - before).norm(dim=-1)
    wanted = grammar.LENGTH * grammar.directions(before.shape[-1])[sides[0, word]]
    assert torch.cosine_similarity(after[0, word] - before[0, word], wanted, dim=0) > 0.5
    assert moved[0, word] > 2 * moved[1].mean()
    assert not any(parameter.requires_grad for parameter in model.text_encoder.parameters())
