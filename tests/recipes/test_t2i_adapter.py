"""`tuner t2i-adapter`: its timesteps, its zeros, its folder."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from tuner.config import build
from tuner.data.batch import Batch
from tuner.errors import RequestError
from tuner.models.architecture import Sizes, create
from tuner.models.control import new_t2i_adapter
from tuner.places import place
from tuner.randomness import Draws
from tuner.recipe import load_recipe, recipe_class

KIND = recipe_class(load_recipe(place("recipes") / "t2i_adapter.py"))
FAST = ("--steps", 3, "--batch-size", 2, "--learning-rate", "1e-2", "--quiet")


def recipe(base: str, **options):
    config = build(KIND.Config, {"base": base, **options})
    return KIND(config, KIND.base(config))


@pytest.mark.parametrize(
    ("family", "kind", "widths"),
    [("sd1", "full_adapter", [16, 32, 32, 32]), ("sd2", "full_adapter", [16, 32, 32, 32]),
     ("sdxl", "full_adapter_xl", [16, 32, 32, 32])],
)  # fmt: skip
def test_its_shape_is_the_bases(tiny_family, family, kind, widths):
    made = recipe(tiny_family(family))
    config, model = made.network.config, made.model
    assert (config.adapter_type, config.channels) == (kind, widths)
    assert config.downscale_factor == (16 if family == "sdxl" else 8)
    features = made.network(torch.rand(1, 3, model.resolution, model.resolution))
    assert not any(feature.any() for feature in features)  # at first nothing passes


def test_the_bundled_bases_shape_and_one_that_is_not_to_be_had():
    sizes = Sizes()
    adapter = new_t2i_adapter(create(sizes, ["a"]).unet, 4, 0)
    assert adapter.config.adapter_type == "full_adapter_xl" and adapter.config.downscale_factor == 8
    odd = create(Sizes(attention=(False, False, True)), ["a"])
    with pytest.raises(RequestError, match="no T2I-Adapter for a U-Net of the levels DownBlock2D, DownBlock2D, Cross"):
        new_t2i_adapter(odd.unet, 4, 0)


def test_every_weight_comes_to_learn(tiny_base):
    """The first step reaches what is next to the zeros, the second all."""
    made = recipe(tiny_base)
    side, optimizer = made.model.resolution, torch.optim.SGD(made.network.parameters(), 1.0)
    moments = made.model.encode_images(torch.rand(2, 3, side, side))
    batch = Batch(Draws.at(0, 0, [0, 1]), ("a cat", "a dog"), moments, control=torch.rand(2, 3, side, side))
    for _ in range(2):
        optimizer.zero_grad()
        made(batch).mean().backward()
        optimizer.step()
    assert all(p.grad.any() for p in made.network.parameters())
    assert all(p.grad is None for p in made.model.unet.parameters())


def test_timesteps_are_cubic(tiny_base, monkeypatch):
    """P(t < s T) = 1 - (1 - s)^(1/3), for t = (1 - u^3) T: half of them are above 7/8 T."""
    made, seen = recipe(tiny_base), []
    noised = made.model.noised
    monkeypatch.setattr(made.model, "noised", lambda b, o, t: seen.append(t) or noised(b, o, t))
    monkeypatch.setattr(made, "predict", lambda noisy, t, batch: noisy)
    moments = torch.zeros(1, 8, 8, 8).expand(2000, -1, -1, -1)
    made(Batch(Draws.at(0, 0, range(2000)), ("",) * 2000, moments))
    t = torch.cat(seen)
    assert t.min() >= 0 and t.max() <= 999
    for share in (0.25, 0.5, 0.875):
        assert abs((t < 1000 * share).float().mean() - (1 - (1 - share) ** (1 / 3))) < 0.03


def test_a_run_its_folder_and_its_words(tuner, tiny_base, images, tmp_path, monkeypatch):
    """It loads into diffusers, as the model card says; and a second run goes on from it."""
    call = ("t2i-adapter", "--base", tiny_base, "--images", images, "--condition", "colour-grid")
    assert tuner(*call, "--out", tmp_path / "half", "--precision", "bf16", *FAST).exit_code == 0
    result = tuner(*call, "--out", tmp_path / "run", *FAST)
    assert result.exit_code == 0, result.stderr
    assert "StableDiffusionAdapterPipeline of diffusers loads the folder" in result.stdout
    monkeypatch.chdir(tmp_path / "run")
    code = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)[0]
    exec(code.replace(").images", ", num_inference_steps=2).images"), {})
    assert Image.open("picture.png").size == (32, 32)
    again = recipe(tiny_base, control="t2i_adapter")
    assert any(feature.any() for feature in again.network(torch.rand(1, 3, 32, 32)))
    result = tuner("controlnet", "--base", tiny_base, "--images", images, "--control", "t2i_adapter", *FAST)
    assert result.exit_code == 2 and "t2i_adapter is a T2IAdapter; what is wanted is a ControlNetModel" in result.stderr
