"""Painting inside a mask, enlarging and ways between pictures, for every family."""

import numpy as np
import pytest
import torch
from PIL import Image

from tuner.bundled.world import Scene
from tuner.bundled.world import draw as draw_scene
from tuner.errors import RequestError
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.models.samplers import taken
from tuner.sampling.drawing import draw, passes
from tuner.sampling.enlarging import enlarge
from tuner.sampling.images import Source, decode, encode
from tuner.sampling.request import Config, rows
from tuner.sampling.shots import Shot

FAMILIES = ("sd1", "sd2", "sdxl")


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("sampler", ["dpm++", "euler-a"])
@pytest.mark.parametrize("family", FAMILIES)
def test_painting_inside_a_mask(family_model, family, sampler):
    model, ticks = family_model(family), []
    pipe, picture = model.pipeline(sampler), noise(model.resolution, model.resolution)
    mask = Image.new("L", picture.size)
    mask.paste(255, (0, 0, model.resolution // 2, model.resolution // 2))
    source, shots = Source(picture, 0.7, mask), [Shot("a cat", 3, steps=4), Shot("a dog", 3, steps=4)]
    cat, dog = draw(pipe, shots, source=source, tick=lambda: ticks.append(1))
    assert len(ticks) == passes(pipe, shots, source) == taken(4, 0.7) == 2
    drawn, original = np.asarray(cat), np.asarray(picture)
    far = np.ones(drawn.shape[:2], dtype=bool)
    far[: model.resolution // 2 + 4, : model.resolution // 2 + 4] = False
    assert (drawn[far] == original[far]).all() and (drawn[:8, :8] != original[:8, :8]).any()
    alone = next(iter(draw(pipe, shots[1:], source=source)))
    assert np.abs(np.asarray(alone, int) - np.asarray(dog, int)).max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_enlarging(family_model, family, monkeypatch):
    model, seen, ticks = family_model(family), set(), []
    pipe = model.pipeline("dpm++")
    forward = pipe.unet.forward
    monkeypatch.setattr(pipe.unet, "forward", lambda x, *a, **k: seen.add(x.shape[-2:]) or forward(x, *a, **k))
    picture = noise(model.resolution, model.resolution // 2)
    large = enlarge(pipe, picture, Shot("a cat", 1, steps=4), 2, 0.5, batch_size=2, tick=lambda: ticks.append(1))
    side = model.resolution // model.scale
    assert large.size == (2 * model.resolution, model.resolution) and len(ticks) == 2
    assert seen == {torch.Size((side, side))}  # tiles of the size that the base was trained on
    with pytest.raises(RequestError, match="ask for less"):
        enlarge(pipe, picture, Shot("a cat", 1), 1000)


def test_enlarging_keeps_what_the_autoencoder_would_lose():
    model = LatentDiffusion.load("emoji")
    pipe, picture = model.pipeline("dpm++"), draw_scene(Scene("taxi", "green"), 32)
    large = picture.resize((64, 64), Image.Resampling.LANCZOS)
    enlarged = enlarge(pipe, picture, Shot("a taxi on a green background", 1, steps=10), 2, 0.1)
    again = decode(pipe, encode(pipe, large))
    kept, lost = (np.abs(np.asarray(one, float) - np.asarray(large)).mean() for one in (enlarged, again))
    assert 0 < kept < 0.7 * lost


def test_a_way_needs_two_ends_that_differ_by_prompt_and_seed_alone(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("a cat\na dog --s 3")
    with pytest.raises(RequestError, match="line 2: --interpolate needs two lines"):
        rows(Config(prompts=str(file), interpolate=3))
    file.write_text("a cat --d 3\na dog --d 5")
    ((words, shots),) = rows(Config(prompts=str(file), interpolate=3))
    assert words == "a cat ... a dog" and [shot.share for shot in shots] == [0, 0.5, 1]
    assert {(shot.seed, shot.towards) for shot in shots} == {(3, ("a dog", 5))}
    two = rows(Config(prompt=["a cat"], interpolate=2, seed_to=9, count=2))
    assert [[shot.towards for shot in row] for _, row in two] == [[("a cat", 9)] * 2, [("a cat", 10)] * 2]
