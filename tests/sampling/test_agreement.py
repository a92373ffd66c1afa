"""The loop agrees with diffusers' own pipelines, sampler by sampler and family by family."""

import pytest
import torch

from tuner.models.samplers import SAMPLERS
from tuner.sampling.denoising import Start
from tuner.sampling.shots import Shot

FAMILIES = ("sd1", "sd2", "sdxl")


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """To 1e-5 of the latents' own deviation."""
    assert theirs.isfinite().all()
    assert ((ours - theirs).abs().max() / theirs.std()).item() < 1e-5


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_text_to_image(family_model, latents_of, family, sampler):
    model = family_model(family)
    shots = [Shot(prompt, seed, "blue", 3, 3.0) for prompt, seed in (("a cat", 5), ("a red dog", 6))]
    ours = latents_of(model.pipeline(sampler), shots)
    theirs = model.pipeline(sampler)(
        [shot.prompt for shot in shots], negative_prompt=["blue"] * 2, num_inference_steps=3, guidance_scale=3.0,
        generator=generators(5, 6), output_type="latent",
    ).images  # fmt: skip
    close(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_no_negative_prompt_and_other_sizes(family_model, latents_of, family, guidance):
    model = family_model(family)
    width, height = model.resolution, model.resolution // 2
    ours = latents_of(model.pipeline("dpm++"), [Shot("a cat", 1, "", 2, guidance, width, height)])
    theirs = model.pipeline("dpm++")(
        "a cat", num_inference_steps=2, guidance_scale=guidance, generator=generators(1), output_type="latent",
        width=width, height=height,
    ).images  # fmt: skip
    assert ours.shape[-2:] == (height // model.scale, width // model.scale)
    close(ours, theirs)


@pytest.mark.parametrize(
    ("family", "sampler"),
    [*(("sd1", sampler) for sampler in SAMPLERS), ("sd2", "dpm++"), ("sd2", "ddpm"), ("sdxl", "euler-a")],
)
def test_image_to_image(family_model, latents_of, family, sampler):
    import diffusers

    model = family_model(family)
    name = model.family.pipeline.replace("Pipeline", "Img2ImgPipeline")
    other = getattr(diffusers, name)(**model.pipeline(sampler).components)
    other.set_progress_bar_config(disable=True)
    side = model.resolution // model.scale
    image = torch.randn(1, 4, side, side, generator=generators(0)[0])
    ours = latents_of(model.pipeline(sampler), [Shot("a cat", 3, "", 5, 3.0)], Start(image, 0.6))
    theirs = other(
        "a cat", image=image, strength=0.6, num_inference_steps=5, guidance_scale=3.0, generator=generators(3),
        output_type="latent",
    ).images  # fmt: skip
    close(ours, theirs)


def test_eta_and_rescaled_guidance(model, latents_of):
    ours = latents_of(model.pipeline("ddim"), [Shot("a cat", 2, "", 4, 6.0)], eta=0.7, guidance_rescale=0.6)
    theirs = model.pipeline("ddim")(
        "a cat", num_inference_steps=4, guidance_scale=6.0, generator=generators(2), output_type="latent", eta=0.7,
        guidance_rescale=0.6,
    ).images  # fmt: skip
    close(ours, theirs)
    assert not torch.allclose(ours, latents_of(model.pipeline("ddim"), [Shot("a cat", 2, "", 4, 6.0)], eta=0.7))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_depends_on_its_own_seed_alone(model, latents_of, sampler):
    pipe, how = model.pipeline(sampler), {"eta": 0.5} if sampler == "ddim" else {}
    shots = [Shot("a cat", seed, "", 3) for seed in (1, 2, 3)]
    together = latents_of(pipe, shots, **how)
    for row, shot in enumerate(shots):
        close(together[row : row + 1], latents_of(pipe, [shot], **how))


def test_a_unet_that_is_told_the_guidance(model, latents_of):
    """As distillation of the whole U-Net leaves it: one pass, with the scale among what it is told."""
    from diffusers import UNet2DConditionModel

    pipe = model.pipeline("lcm")
    torch.manual_seed(0)
    pipe.unet = UNet2DConditionModel.from_config({**pipe.unet.config, "time_cond_proj_dim": 32}).eval()
    ours = [latents_of(pipe, [Shot("a cat", 2, "", 2, guidance)]) for guidance in (3.0, 9.0)]
    theirs = pipe("a cat", num_inference_steps=2, guidance_scale=9.0, generator=generators(2), output_type="latent")
    close(ours[1], theirs.images)
    assert not torch.allclose(ours[0], ours[1])
