"""tuner generate, and the pictures that everything else draws with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tuner.commands.generate import A1111, Config
from tuner.evaluation.pictures import pictures
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.models.samplers import SAMPLERS

FAST = ("--steps", 2, "--quiet")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model(tiny_base) -> LatentDiffusion:
    return LatentDiffusion.load(tiny_base)


def apart(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of two pictures, of 255. Batches of other sizes may round differently."""
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())


def test_files_sheet_and_metadata(tuner, here, tiny_base):
    result = tuner("generate", "a cat", "a red dog", "--base", tiny_base, "--count", 2, "--seed", 7,
                   "--negative", "blue", "--guidance", 3, "--sampler", "euler-a", *FAST)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "4 pictures in pictures: 0000.png to 0003.png, and sheet.png." in result.stdout
    assert sorted(p.name for p in (here / "pictures").iterdir()) == [*(f"000{k}.png" for k in range(4)), "sheet.png"]
    assert Image.open("pictures/0003.png").text["parameters"] == (
        "a red dog\nNegative prompt: blue\nSteps: 2, Sampler: Euler a, CFG scale: 3, Seed: 8, Size: 32x32, Model: tiny"
    )
    sheet = Image.open("pictures/sheet.png")
    assert sheet.width > 2 * 128 and sheet.height > 2 * 128


def test_the_batch_size_does_not_change_the_pictures(tuner, tiny_base):
    for size in (1, 3):
        flags = ("--base", tiny_base, "--count", 3, "--batch-size", size, "--out", f"of{size}", *FAST)
        assert tuner("generate", "a cat", *flags).exit_code == 0
    for k in range(3):
        one, three = Image.open(f"of1/000{k}.png"), Image.open(f"of3/000{k}.png")
        assert apart(one, three) <= 1 and one.text == three.text


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_picture_k_has_seed_plus_k(model, sampler):
    pipe = model.pipeline(sampler)
    first, second = pictures(pipe, ["a cat"], [3, 4], steps=3)
    alone = pictures(pipe, ["a cat"], [4], steps=3)[0]
    assert apart(second, alone) <= 1 < apart(first, second)


def test_as_diffusers_draws_it(model):
    """The same seed gives the picture that diffusers gives for a CPU generator of that seed."""
    ours = pictures(model.pipeline("euler-a"), ["a cat"], [5], steps=3, guidance=2.0)[0]
    theirs = model.pipeline("euler-a")(
        "a cat", num_inference_steps=3, guidance_scale=2.0, generator=torch.Generator().manual_seed(5)
    ).images[0]
    assert apart(ours, theirs) <= 1


def test_prompt_by_prompt(model):
    pipe = model.pipeline("ddim")
    both = pictures(pipe, ["a cat", "a red dog"], [1, 2], steps=2, batch_size=3)
    dog = pictures(pipe, ["a red dog"], [1, 2], steps=2)
    assert len(both) == 4 and all(apart(*pair) <= 1 for pair in zip(both[2:], dog, strict=True))
    assert pictures(pipe, ["a cat"], [1], steps=1, resolution=64)[0].size == (64, 64)


def test_folders(tuner, here, tiny_base):
    call = ("generate", "a cat", "--base", tiny_base, *FAST)
    assert tuner(*call).exit_code == tuner(*call).exit_code == 0
    assert (here / "pictures-2" / "0000.png").exists()
    (here / "mine").mkdir()
    (here / "mine" / "letter.txt").write_text("mine")
    assert tuner(*call, "--out", "mine").exit_code == 0
    before = (here / "mine" / "0000.png").read_bytes()
    again = tuner(*call, "--out", "mine", "--seed", 9)
    assert again.exit_code == 2 and again.stderr == "Error: --out mine holds 0000.png already; name a new folder.\n"
    assert (here / "mine" / "0000.png").read_bytes() == before


def test_a_prompt_that_is_too_long_is_named(tuner, tiny_base):
    told = tuner("generate", "a cat " * 20, "--base", tiny_base, *FAST).stdout
    assert "is too long for this base: it reads 16 tokens of 42." in told


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], 'tuner generate needs a prompt: tuner generate "a cat on a red background".'),
        (["a", "--count", "0"], "--count must be at least 1, not 0."),
        (["a", "--sampler", "dmp++"], "--sampler must be one of ddpm, ddim, dpm++, euler, euler-a, lcm, not dmp++; "
                                      "did you mean dpm++?"),
        (["a", "--base", "none"], "--base none: there is no such file or folder; name a diffusers folder, a "
                                  ".safetensors checkpoint, a Hub id or `emoji`."),
        (["a", "--adapter", "none.safetensors"], "--adapter none.safetensors: there is no file none.safetensors; "
                                                 "name one as FILE or as FILE:WEIGHT."),
        (["a", "--prompt", "b"], "There is no option --prompt; prompts stand by themselves: `tuner generate "
                                 "PROMPT...`."),
        (["a", "--num_inference_steps", "9"], "There is no option --num_inference_steps; here it is --steps."),
        (["a", "--lora", "x"], "There is no option --lora; here it is --adapter."),
        (["a", "--out", "file"], "--out file is a file; name a folder."),
    ],
)  # fmt: skip
def test_wrong_requests(tuner, here, flags, sentence):
    (here / "file").write_text("")
    result = tuner("generate", *flags)
    assert (result.exit_code, result.stderr) == (2, f"Error: {sentence}\n")
    assert not (here / "pictures").exists()


def test_a_resolution_that_does_not_suit(tuner, here, tiny_base):
    result = tuner("generate", "a", "--base", tiny_base, "--resolution", 30, *FAST)
    assert result.exit_code == 2 and "--resolution 30" in result.stderr and "multiple of 8" in result.stderr
    assert not (here / "pictures").exists()


def test_values_that_are_not_finite_fail_the_run(tuner, here, tiny_base, monkeypatch):
    decode = LatentDiffusion.load(tiny_base).vae.__class__.decode

    def broken(*args, **kwargs):
        out = decode(*args, **kwargs)
        out.sample *= torch.nan
        return out

    monkeypatch.setattr("diffusers.AutoencoderKL.decode", broken)
    result = tuner("generate", "a", "--base", tiny_base, *FAST)
    assert result.exit_code == 1 and "not finite" in result.stderr
    assert not (here / "pictures").exists()


def test_the_samplers_are_those_of_the_library():
    choices = Config.model_fields["sampler"].annotation.__args__
    assert set(choices) == set(SAMPLERS) == set(A1111)
