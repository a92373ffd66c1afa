"""The text encoder's lesson in left and right: which words are marked, and that only their states change."""

import pytest
import torch

from tuner.bundled import grammar, mixture, world
from tuner.models.architecture import Sizes, create
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


def test_states_of_marked_words_move_and_others_stay():
    """A small encoder of the world's words learns it from nothing: the side of a subject that it is asked for."""
    sizes = Sizes(
        resolution=32, vae=(8, 16, 16), unet=(16, 32), attention=(True, False), heads=2, text_width=32, text_length=24
    )
    model = create(sizes, world.vocabulary(), seed=1)
    scenes = [world.Scene("dog", "red", relation=relation, other="car") for relation in world.RELATIONS]
    prompts = [*map(world.caption, scenes), "a dog on a red background"]
    _, sides = grammar.marked(model.tokenizer, scenes)
    words = (sides >= 0).int().argmax(1)
    with torch.no_grad():
        before = model.encode_prompts(prompts).hidden
    grammar.train(model, steps=250, count=600, batch_size=32)
    with torch.no_grad():
        moved = model.encode_prompts(prompts).hidden - before
    for row, it in enumerate(scenes):
        found = moved[row, words[row]] @ grammar.directions(32).T  # how far towards each side
        assert found.argmax() == grammar.SIDES[it.relation] and found.max() > grammar.LENGTH / 2
    assert moved[-1].norm(dim=-1).mean() < grammar.LENGTH / 4
    assert not any(parameter.requires_grad for parameter in model.text_encoder.parameters())
