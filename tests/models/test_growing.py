"""Models that grow go on meaning what they meant."""

import torch

from tuner.models.growing import reword, widen
from tuner.models.latent_diffusion import LatentDiffusion


def test_new_words_leave_what_the_old_ones_mean(tiny_base):
    model = LatentDiffusion.load(tiny_base)
    prompts = ["a cat on a red background", "a dog", ""]
    before = model.encode_prompts(prompts).hidden
    pieces = len(model.tokenizer.tokenize("zeppelin"))
    words = [token.removesuffix("</w>") for token in model.tokenizer.get_vocab() if token.endswith("</w>")]
    reword(model, [*words, "zeppelin"], seed=3)
    assert model.encode_prompts(prompts).hidden.equal(before)
    assert len(model.tokenizer.tokenize("zeppelin")) == 1 < pieces
    told = model.encode_prompts(["a zeppelin"]).hidden
    reword(model, words)
    assert model.encode_prompts(prompts).hidden.equal(before)
    assert not model.encode_prompts(["a zeppelin"]).hidden.equal(told)


def test_new_channels_change_nothing_at_first(tiny_base):
    model, grown = (LatentDiffusion.load(tiny_base) for _ in range(2))
    widen(grown, 6, seed=3)
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    old, new = model.encode_images(pixels), grown.encode_images(pixels)  # moments, (2, 2 C, h, w)
    assert new[:, [0, 1, 2, 3, 6, 7, 8, 9]].equal(old)
    assert new[:, 4:6].std() > 0.01 and (new[:, 10:] < -5).all()  # something new, hardly any noise
    assert torch.allclose(grown.vae(pixels).sample, model.vae(pixels).sample, atol=1e-6)
    told, t = model.encode_prompts(["a cat", ""]), torch.tensor([10, 900])
    noisy = torch.randn(2, 6, 16, 16)[..., : old.shape[-2], : old.shape[-1]]
    predicted = grown.predict(noisy, t, told)
    assert torch.allclose(predicted[:, :4], model.predict(noisy[:, :4], t, told), atol=1e-6)
    assert not predicted[:, 4:].any()
    loss = predicted[:, 4:].sub(1).square().mean() + grown.vae(pixels).sample.square().mean()
    loss.backward()
    assert grown.unet.conv_out.weight.grad[4:].any() and grown.vae.decoder.conv_in.weight.grad[:, 4:].any()


def test_a_grown_model_is_saved_and_loaded(tiny_base, tmp_path):
    from tuner.models.architecture import save

    grown = LatentDiffusion.load(tiny_base)
    widen(grown, 6)
    save(grown, tmp_path / "grown")
    again = LatentDiffusion.load(str(tmp_path / "grown"))
    assert again.vae.config.latent_channels == again.unet.config.in_channels == again.unet.config.out_channels == 6
    assert all(torch.equal(a, b) for a, b in zip(grown.vae.parameters(), again.vae.parameters(), strict=True))
