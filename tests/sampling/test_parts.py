"""Noise between seeds, tiles, masks, sizes, files of prompts, precision."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from tuner.errors import RequestError
from tuner.sampling.images import SEAM, decode, encode, open_mask, open_picture, painted, pasted, suited
from tuner.sampling.noise import slerp, starts
from tuner.sampling.precision import chosen, hold
from tuner.sampling.prompt_files import read_prompts
from tuner.sampling.shots import Shot
from tuner.sampling.tiles import places, tiled, window


def test_slerp():
    x, y = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    torch.testing.assert_close(slerp(x, y, 1 / 3), 2 * torch.tensor([np.cos(np.pi / 6), np.sin(np.pi / 6)]).float())
    assert slerp(x, y, 0.0).equal(x) and torch.allclose(slerp(x, y, 1.0), y)
    torch.testing.assert_close(slerp(x, x, 0.3), x)
    torch.testing.assert_close(slerp(x, -x, 0.25), x / 2)


def test_noise_on_the_way_between_two_seeds():
    shots = [Shot("a", 1, towards=("a", 2), share=share) for share in (0, 0.5, 1)]
    noise, _ = starts(shots, (4, 32, 32))
    ends, _ = starts([Shot("a", 1), Shot("a", 2)], (4, 32, 32))
    torch.testing.assert_close(noise[[0, 2]], ends)
    assert abs(noise[1].std() - 1) < 0.05


@pytest.mark.parametrize("length", [8, 9, 12, 13, 16, 31, 64])
def test_tiles_cover_all_and_overlap(length):
    begins = places(length, 8)
    assert begins[0] == 0 and begins[-1] + 8 == max(length, 8)
    assert all(b - a <= 6 for a, b in pairwise(begins))


def test_tiles_leave_no_seams():
    values = torch.randn(2, 3, 20, 13)
    torch.testing.assert_close(tiled(values, 8, lambda part: 2 * part, 6), 2 * values)
    large = tiled(values, 8, lambda part: part.repeat_interleave(2, -1).repeat_interleave(2, -2)[:, :1], zoom=(1, 2))
    assert large.shape == (2, 1, 40, 26)
    torch.testing.assert_close(large[..., ::2, ::2], values[:, :1])
    torch.testing.assert_close(tiled(large, 8, lambda part: part[..., ::2, ::2], zoom=(2, 1)), values[:, :1])
    assert window(8, 8).min() > 0 and window(7, 7).max() == 1
    sizes = []
    tiled(values, 8, lambda part: sizes.append(part.shape) or part, 4)  # two tiles of both examples at once
    assert {size[0] for size in sizes} <= {2, 4} and {size[-2:] for size in sizes} == {(8, 8)}


def test_the_autoencoder_in_tiles(model, monkeypatch):
    """Within a tile of the edges the tiles see what the whole picture would show them."""
    from tuner.sampling import images

    pipe, calls = model.pipeline(), []
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    whole = encode(pipe, picture)
    drawn = decode(pipe, whole)
    assert whole.shape[-2:] == (64 // model.scale, 96 // model.scale) and drawn.size == picture.size
    monkeypatch.setattr(images, "WHOLE", 1000)
    kept = pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda part: calls.append(part.shape[-2:]) or kept(part))
    in_tiles = encode(pipe, picture)
    assert in_tiles.shape == whole.shape and (in_tiles - whole).abs().mean() < whole.abs().mean()
    assert decode(pipe, whole).size == picture.size
    assert len(calls) > 2 and set(calls) == {(32 // model.scale,) * 2}


def test_masks(tmp_path):
    mask = Image.new("L", (40, 24))
    mask.paste(255, (17, 9, 21, 13))
    mask.save(tmp_path / "mask.png")
    original = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8))
    read = open_mask(str(tmp_path / "mask.png"), original)
    where = painted(read, (10, 6))[0, 0]
    assert where.nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]
    drawn = Image.new("RGB", (40, 24), "red")
    result, kept = np.asarray(pasted(drawn, original, read)), np.asarray(original)
    assert (result[9:13, 17:21] == (255, 0, 0)).all()
    outside = np.ones((24, 40), dtype=bool)
    outside[9 - SEAM : 13 + SEAM, 17 - SEAM : 21 + SEAM] = False
    assert (result[outside] == kept[outside]).all()
    assert (result[8, 17:21] != kept[8, 17:21]).any() and (result[8, 17:21] != (255, 0, 0)).any()  # the seam


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((32, 32), (32, 32)), ((48, 32), (48, 32)), ((64, 64), (64, 64)), ((72, 64), (32, 32)), ((33, 30), (32, 32)),
        ((39, 31), (40, 32)), ((4000, 2000), (48, 24)), ((10, 10), (32, 32)), ((9000, 100), (304, 8)),
    ],
)  # fmt: skip
def test_sizes_that_suit(model, size, drawn):
    assert suited(model.pipeline(), size) == drawn


def test_pictures_that_cannot_be_read(tmp_path):
    with pytest.raises(RequestError, match=r"--image .*none.png cannot be read: there is no such file; name a pict"):
        open_picture(str(tmp_path / "none.png"), "--image")


def test_files_of_prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    flags = "--n blue, bad --w 64 --h 48 --d 7 --l 2.5 --s 9"
    text = f"\ufeff# a comment\n\na cat, très joli\n  a red-hot dog -- or two {flags}\n"
    file.write_text(text, encoding="utf-8")
    first, second = read_prompts(file)
    assert (first.prompt, first.values, first.where) == ("a cat, très joli", {}, f"{file}, line 3")
    assert second.prompt == "a red-hot dog -- or two"
    assert second.values == {
        "negative": "blue, bad", "width": 64, "height": 48, "seed": 7, "guidance": 2.5, "steps": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a\nb --x 3", "line 2: there is no flag --x in prompt files; they know --n NEGATIVE, --w WIDTH, --h HEIGHT, "
                       "--d SEED, --l GUIDANCE and --s STEPS."),
        ("a --w wide", "line 1: --w must be a whole number from 1 to 65536, not wide."),
        ("a --s 0", "line 1: --s must be a whole number from 1 to 1000, not 0."),
        ("a --l nan", "line 1: --l must be a number from 0 to 1000000, not nan."),
        ("a --d", "line 1: --d must be a whole number of at least 0, not nothing."),
        ("--n blue", "line 1: there is no prompt before --n; write it first."),
        ("# nothing\n", "holds no prompt; write one a line."),
    ],
)  # fmt: skip
def test_wrong_files_of_prompts(tmp_path, text, sentence):
    file = tmp_path / "prompts.txt"
    file.write_text(text)
    with pytest.raises(RequestError) as error:
        read_prompts(file)
    assert str(error.value).endswith(sentence) and str(file) in str(error.value)


def test_files_of_prompts_that_cannot_be_read(tmp_path):
    with pytest.raises(RequestError, match="cannot be read"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("très".encode("latin-1"))
    with pytest.raises(RequestError, match="not UTF-8"):
        read_prompts(tmp_path / "latin.txt")


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_half_precision_draws_nearly_the_same(tiny_family, latents_of, family):
    from tuner.models.latent_diffusion import LatentDiffusion

    pipe = LatentDiffusion.load(tiny_family(family)).pipeline("dpm++")
    whole = latents_of(pipe, [Shot("a cat", 1, "", 3)])
    hold(pipe, torch.bfloat16, "cpu")
    assert pipe.unet.dtype == pipe.text_encoder.dtype == torch.bfloat16 and pipe.vae.dtype == torch.float32
    half = latents_of(pipe, [Shot("a cat", 1, "", 3)])
    assert half.dtype == torch.float32 and 0 < (half - whole).std() / whole.std() < 0.1


def test_kernels_have_their_channels_innermost_but_for_those_that_train(tiny_base, latents_of):
    from tuner.models.latent_diffusion import LatentDiffusion

    model = LatentDiffusion.load(tiny_base)
    pipe, kernels = model.pipeline("dpm++"), [model.unet.conv_in.weight, model.vae.decoder.conv_in.weight]
    before = latents_of(pipe, [Shot("a cat", 1, "", 3)])
    model.unet.conv_out.weight.requires_grad_(True)
    hold(pipe, torch.float32, "cpu")
    assert all(it.is_contiguous(memory_format=torch.channels_last) and not it.is_contiguous() for it in kernels)
    assert model.unet.conv_out.weight.is_contiguous()
    assert torch.allclose(latents_of(pipe, [Shot("a cat", 1, "", 3)]), before, atol=1e-4)


def test_what_auto_means():
    assert chosen("auto", "cpu") == torch.float32 and chosen("fp16", "cpu") == torch.float16


@pytest.mark.gpu
def test_half_precision_on_a_gpu(tiny_base, latents_of):
    from tuner.models.latent_diffusion import LatentDiffusion

    assert chosen("auto", "cuda") in (torch.bfloat16, torch.float16)
    for dtype in (torch.bfloat16, torch.float16):
        pipe = LatentDiffusion.load(tiny_base).pipeline("dpm++")
        whole = latents_of(pipe, [Shot("a cat", 1, "", 3)])
        hold(pipe, dtype, "cuda")
        half = latents_of(pipe, [Shot("a cat", 1, "", 3)]).cpu()
        assert (half - whole).std() / whole.std() < 0.1
