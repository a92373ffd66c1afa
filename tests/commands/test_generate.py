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
        (["a", "--sampler", "dmp++"], "--sampler must be one of ddpm, ddim, dpm++, euler, euler-a, lcm, ddim-trailing, "
                                      "not dmp++; did you mean dpm++?"),
        (["a", "--base", "none"], "--base none: there is no such file or folder; name a diffusers folder, a "
                                  ".safetensors checkpoint, a Hub id or `emoji`."),
        (["a", "--adapter", "none.safetensors"], "--adapter none.safetensors: there is no file none.safetensors; "
                                                 "name one as FILE or as FILE:WEIGHT."),
        (["a", "--mask", "m.png"], "--mask needs the picture that it belongs to; name it by --image."),
        (["a", "--strength", "0.5"], "--strength says how far to leave a picture; name one by --image."),
        (["a", "--image", "i.png"], "--image i.png cannot be read: there is no such file; name a picture file."),
        (["a", "--image", "file"], "--image file cannot be read: it is empty; name a picture file."),
        (["a", "--eta", "0.5"], "--eta is of --sampler ddim, not of dpm++; choose ddim, or leave --eta out."),
        (["a", "--percentile", "0.995"], "--percentile must be at least 50, not 0.995."),
        (["a", "--upscale", "1"], "--upscale must be more than 1, not 1."),
        (["a", "--upscale", "2", "--image", "i.png", "--mask", "m.png"],
         "--upscale and --mask do not go together; enlarge the picture that comes out."),
        (["a", "--image", "i.png", "--mask", "m.png", "--width", "64"],
         "--mask keeps the picture's own size; leave --width, --height and --resolution out."),
        (["a", "--interpolate", "3"], "--interpolate goes between two prompts, or two seeds by --seed-to; here is 1 "
                                      "prompt."),
        (["a", "b", "c", "--interpolate", "3"], "--interpolate goes between two prompts, or two seeds by --seed-to; "
                                                "here is 3 prompts."),
        (["a", "b", "--interpolate", "1"], "--interpolate must be at least 2, not 1."),
        (["a", "--seed-to", "3"], "--seed-to is the end of a way; say by --interpolate how many pictures lie on it."),
        (["--prompts", "none.txt"], "--prompts none.txt cannot be read (No such file or directory); name a text "
                                    "file."),
        (["a", "--denoising_strength", "1"], "There is no option --denoising_strength; here it is --strength."),
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


def test_prompts_stand_by_themselves(tuner):
    told = tuner("generate", "a", "--prompt", "b").stderr
    assert told.startswith("Error: There is no option --prompt; ") and "`tuner generate PROMPT...`" in told


def test_a_resolution_that_does_not_suit(tuner, here, tiny_base):
    result = tuner("generate", "a", "--base", tiny_base, "--resolution", 30, *FAST)
    assert result.exit_code == 2 and "--resolution 30" in result.stderr and "multiple of 8" in result.stderr
    for flag in ("--width", "--height"):
        told = tuner("generate", "a", "--base", tiny_base, flag, 28, *FAST).stderr
        assert f"{flag} 28 does not suit this base; use a multiple of 8." in told
    (here / "lines.txt").write_text("a\na --h 20")
    told = tuner("generate", "--prompts", "lines.txt", "--base", tiny_base, *FAST).stderr
    assert "lines.txt, line 2: --h 20 does not suit" in told
    told = tuner("generate", "a", "--base", tiny_base, "--sampler", "lcm", "--steps", 60, "--quiet").stderr
    assert "--steps 60 is more than this sampler takes on this base; use at most 50." in told
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


@pytest.fixture
def photo(here) -> Image.Image:
    """photo.png, of noise, and mask.png, which is white in the middle: 40 x 32."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 40, 3), dtype=np.uint8))
    picture.save("photo.png")
    mask = Image.new("L", picture.size)
    mask.paste(255, (16, 12, 24, 20))
    mask.save("mask.png")
    return picture


def told_of(path: str) -> str:
    return Image.open(path).text["parameters"].split("\n")[-1]


def test_from_a_picture(tuner, photo, tiny_base):
    call = ("generate", "a cat", "--base", tiny_base, "--image", "photo.png", "--quiet", "--steps", 10)
    for strength in (0.1, 0.9):
        assert tuner(*call, "--strength", strength, "--out", strength).exit_code == 0
    near, far = Image.open("0.1/0000.png"), Image.open("0.9/0000.png")
    assert near.size == far.size == photo.size and apart(near, far) > 1
    assert 'Size: 40x32, Model: tiny, Denoising strength: 0.9, Image: "photo.png"' in told_of("0.9/0000.png")
    told = tuner(*call, "--resolution", 16, "--count", 2, "--out", "small").stdout
    assert "photo.png has 40 x 32 pixels; it is drawn at 16 x 16, resized and cropped in the middle." in told
    assert Image.open("small/0001.png").size == (16, 16) and "denoising step 6/6" not in told


def test_painting_inside_a_mask(tuner, here, photo, tiny_base):
    call = ("generate", "a cat", "--base", tiny_base, "--quiet", "--steps", 3, "--mask", "mask.png", "--image")
    assert tuner(*call, "photo.png").exit_code == 0
    outside = np.ones((32, 40), dtype=bool)
    outside[8:24, 12:28] = False
    drawn, original = np.asarray(Image.open("pictures/0000.png")), np.asarray(photo)
    assert (drawn[outside] == original[outside]).all()
    assert (drawn[12:20, 16:24] != original[12:20, 16:24]).any(-1).mean() > 0.9
    assert 'Denoising strength: 1, Mask blur: 4, Mask: "mask.png"' in told_of("pictures/0000.png")
    odd = photo.crop((0, 0, 39, 31))
    odd.save("odd.png")
    refused = tuner(*call, "odd.png")
    assert refused.exit_code == 2 and "the two must have the same size" in refused.stderr
    Image.open("mask.png").crop((0, 0, 39, 31)).save("mask.png")
    told = tuner(*call, "odd.png", "--out", "of_odd")
    assert "odd.png has 39 x 31 pixels; it is drawn at 40 x 32, resized for it and put back." in told.stdout
    drawn, outside = np.asarray(Image.open("of_odd/0000.png")), outside[:31, :39]
    assert (drawn[outside] == np.asarray(odd)[outside]).all()
    Image.new("L", (39, 31)).save("mask.png")
    assert "is black all over" in tuner(*call, "odd.png").stderr


def test_the_kept_part_is_the_original_at_every_step(model, photo, monkeypatch):
    """Outside the mask the U-Net sees the picture itself, with as much of its noise as belongs to the step."""
    from tuner.sampling.drawing import draw
    from tuner.sampling.images import Source, encode, open_mask
    from tuner.sampling.noise import starts
    from tuner.sampling.shots import Shot

    pipe, seen = model.pipeline("ddim"), []
    forward = pipe.unet.forward
    monkeypatch.setattr(pipe.unet, "forward", lambda x, t, *a, **k: seen.append((x, t)) or forward(x, t, *a, **k))
    shot = Shot("a cat", 4, steps=4, guidance=1.0)
    list(draw(pipe, [shot], source=Source(photo, 0.8, open_mask("mask.png", photo))))
    with torch.no_grad():
        image = encode(pipe, photo)
    noise, _ = starts([shot], tuple(image.shape[1:]))
    assert len(seen) == 3
    for noisy, t in seen:
        wanted = model.add_noise(image, noise, t[None])
        torch.testing.assert_close(noisy[..., :2, :], wanted[..., :2, :])
        torch.testing.assert_close(noisy[..., -2:], wanted[..., -2:])
    assert not torch.allclose(seen[1][0], model.add_noise(image, noise, seen[1][1][None]))


def test_files_of_prompts(tuner, here, tiny_base):
    (here / "lines.txt").write_text("# two\na cat\na red dog --n blue --w 48 --h 16 --d 9 --l 2 --s 3\n")
    call = ("--base", tiny_base, "--count", 2, "--seed", 1, *FAST)
    assert tuner("generate", "a dog", "--prompts", "lines.txt", *call).exit_code == 0
    texts = [Image.open(f"pictures/000{k}.png").text["parameters"] for k in range(6)]
    assert [text.split("\n")[0] for text in texts] == [*["a dog"] * 2, *["a cat"] * 2, *["a red dog"] * 2]
    assert texts[5] == (
        "a red dog\nNegative prompt: blue\nSteps: 3, Sampler: DPM++ 2M Karras, CFG scale: 2, Seed: 10, Size: 48x16, "
        "Model: tiny"
    )
    assert tuner("generate", "a cat", *call, "--out", "alone").exit_code == 0
    assert apart(Image.open("alone/0001.png"), Image.open("pictures/0003.png")) <= 1


def test_sizes_that_are_not_square(tuner, tiny_base):
    assert tuner("generate", "a cat", "--base", tiny_base, "--width", 48, *FAST).exit_code == 0
    assert Image.open("pictures/0000.png").size == (48, 32)


def test_enlarging(tuner, photo, tiny_base):
    call = ("--base", tiny_base, "--quiet", "--steps", 4, "--upscale", 2)
    told = tuner("generate", "--image", "photo.png", *call)
    assert told.exit_code == 0 and "photo.png has 40 x 32 pixels; it becomes 80 x 64." in told.stdout
    assert Image.open("pictures/0000.png").size == (80, 64)
    assert told_of("pictures/0000.png").endswith(
        "Size: 40x32, Model: tiny, Denoising strength: 0.3, Hires upscale: 2, Hires steps: 1, Hires upscaler: Lanczos, "
        'Image: "photo.png"'
    )
    assert tuner("generate", "a cat", *call, "--out", "drawn", "--batch-size", 3, "--seed", 2).exit_code == 0
    assert tuner("generate", "a cat", *call, "--out", "again", "--batch-size", 1, "--seed", 2).exit_code == 0
    drawn, again = Image.open("drawn/0000.png"), Image.open("again/0000.png")
    assert drawn.size == (64, 64) and apart(drawn, again) <= 1


@pytest.mark.parametrize("sampler", ["dpm++", "ddim"])
def test_a_way_between_two_pictures(tuner, tiny_base, sampler):
    call = ("generate", "--base", tiny_base, "--sampler", sampler, *FAST)
    told = tuner(*call, "a cat", "a red dog", "--seed", 3, "--seed-to", 8, "--interpolate", 3)
    assert "3 pictures in pictures: 0000.png to 0002.png, strip.png, and sheet.png." in told.stdout
    assert Image.open("pictures/strip.png").size == (96, 32)
    assert 'Towards: "a red dog", Towards seed: 8, Share: 0.5' in told_of("pictures/0001.png")
    assert tuner(*call, "a cat", "--seed", 3, "--out", "first").exit_code == 0
    assert tuner(*call, "a red dog", "--seed", 8, "--out", "last").exit_code == 0
    assert apart(Image.open("first/0000.png"), Image.open("pictures/0000.png")) <= 1
    assert apart(Image.open("last/0000.png"), Image.open("pictures/0002.png")) <= 1
    assert apart(Image.open("pictures/0001.png"), Image.open("pictures/0000.png")) > 1


def test_thresholds_and_the_rest_are_told(tuner, tiny_base):
    flags = ("--sampler", "ddim", "--eta", 0.5, "--guidance-rescale", 0.7, "--threshold", "dynamic", "--percentile", 99,
             "--threshold-at", 2, "--precision", "bf16")  # fmt: skip
    assert tuner("generate", "a cat", "--base", tiny_base, *flags, *FAST).exit_code == 0
    told = told_of("pictures/0000.png")
    assert told.endswith("Eta DDIM: 0.5, CFG Rescale: 0.7, Threshold: dynamic 99% at 2")
