"""Each family, shrunk: what LatentDiffusion makes of it is what diffusers makes of it."""

import types
from collections.abc import Callable

import diffusers
import pytest
import torch

from tuner.data.batch import Batch
from tuner.models.architecture import published
from tuner.models.conditioning import Conditioning
from tuner.models.latent_diffusion import LatentDiffusion, LossOptions
from tuner.models.samplers import SAMPLERS
from tuner.randomness import Draws

FAMILIES = ("sd1", "sd2", "sdxl")
PROMPTS = ["a cat on a red background", "a dog"]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, tiny_family: Callable[[str], str]) -> LatentDiffusion:
    return LatentDiffusion.load(tiny_family(request.param))


def told_by_diffusers(pipe, prompt: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Hidden states and pooled text of a prompt."""
    if hasattr(pipe, "text_encoder_2"):
        hidden, _, pooled, _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)
        return hidden, pooled
    return pipe.encode_prompt(prompt, "cpu", 1, False)[0], None


def test_what_the_families_call_themselves(tiny_family: Callable[[str], str]) -> None:
    found = {name: LatentDiffusion.load(tiny_family(name)) for name in FAMILIES}
    assert {name: (m.family.name, m.architecture, m.kohya_version) for name, m in found.items()} == {
        "sd1": ("sd1", "stable-diffusion-v1", "sd_v1"),
        "sd2": ("sd2", "stable-diffusion-v2-768-v", "sd_v2_v"),
        "sdxl": ("sdxl", "stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    }


def test_prompts_are_encoded_as_diffusers_does(model: LatentDiffusion) -> None:
    pipe = model.pipeline()
    told = model.encode_prompts(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        hidden, pooled = told_by_diffusers(pipe, prompt)
        torch.testing.assert_close(told.hidden[row], hidden[0])
        assert (told.pooled is None) == (pooled is None)
        if pooled is not None:
            torch.testing.assert_close(told.pooled[row], pooled[0])


def test_the_empty_prompt_is_what_guidance_leads_away_from(model: LatentDiffusion) -> None:
    pipe = model.pipeline()
    if model.zero_empty:
        _, hidden, _, pooled = pipe.encode_prompt("a cat", do_classifier_free_guidance=True)
    else:
        hidden, pooled = pipe.encode_prompt("a cat", "cpu", 1, True)[1], None
    told = model.encode_prompts(["a cat", ""])[1:]
    torch.testing.assert_close(told.hidden, hidden)
    if pooled is not None:
        assert told.pooled is not None and not told.pooled.any() and not told.hidden.any()


@torch.no_grad()
def test_one_denoising_step_equals_the_pipelines(model: LatentDiffusion) -> None:
    """DDIM's first step, from the same noise: the pipeline tells the U-Net sizes of its own."""
    pipe, side = model.pipeline("ddim"), model.resolution
    noise = torch.randn(1, 4, side // model.scale, side // model.scale)
    theirs = pipe(
        PROMPTS[0], num_inference_steps=1, guidance_scale=1.0, latents=noise.clone(), output_type="latent",
        height=side, width=side,
    ).images  # fmt: skip
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(1)
    t = scheduler.timesteps[:1]
    answer = model.predict(noise, t, model.encode_prompts([PROMPTS[0]]))
    torch.testing.assert_close(scheduler.step(answer, t[0], noise).prev_sample, theirs, rtol=1e-4, atol=1e-4)


def test_noise_and_targets_are_diffusers(model: LatentDiffusion) -> None:
    scheduler = diffusers.DDPMScheduler.from_config(model.scheduler_config)
    latents, noise = torch.randn(2, 2, 4, 8, 8)
    t = torch.tensor([3, 871])
    torch.testing.assert_close(model.add_noise(latents, noise, t), scheduler.add_noise(latents, noise, t))
    wanted = scheduler.get_velocity(latents, noise, t) if model.prediction_type == "v_prediction" else noise
    torch.testing.assert_close(model.target(latents, noise, t), wanted)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_is_that_of_the_paper(model: LatentDiffusion, gamma: float) -> None:
    from diffusers.training_utils import compute_snr

    t = torch.tensor([0, 10, 200, 500, 999])
    scheduler = diffusers.DDPMScheduler.from_config(model.scheduler_config)
    snr = compute_snr(scheduler, t).double()
    divisor = snr + 1 if model.prediction_type == "v_prediction" else snr
    weight = model.loss_weight(t, LossOptions(snr_gamma=gamma))
    torch.testing.assert_close(weight.double(), snr.clamp(max=gamma) / divisor, rtol=1e-4, atol=0)
    assert (model.loss_weight(t, LossOptions()) == 1).all()


def test_the_added_loss_is_that_of_predicting_v(model: LatentDiffusion) -> None:
    t = torch.tensor([20, 300, 700, 960])
    latents, noise, miss = (torch.randn(4, 4, 2, 2, generator=torch.Generator().manual_seed(k)) for k in range(3))
    noisy, prediction = model.add_noise(latents, noise, t), model.target(latents, noise, t) + 0.1 * miss
    signal, spread = ((a**0.5).view(-1, 1, 1, 1) for a in (model.alphas_cumprod[t], 1 - model.alphas_cumprod[t]))
    known, seen = (
        (signal * n - spread * x).double() for x, n in ((latents, noise), model.separated(noisy, prediction, t))
    )
    error = (prediction - model.target(latents, noise, t)).square().mean((1, 2, 3))
    added = model.loss_weight(t, LossOptions(v_like=2.0)) - 1
    torch.testing.assert_close((added * error).double(), 2 * (seen - known).square().mean((1, 2, 3)), rtol=1e-3, atol=0)


def batch(model: LatentDiffusion, count: int, sizes: torch.Tensor | None = None) -> Batch:
    moments = torch.randn(count, 8, 8, 8)
    return Batch(Draws.at(0, 0, range(count)), tuple(PROMPTS[:count]), moments=moments, sizes=sizes)


def test_sizes_reach_the_unet_of_sdxl_alone(model: LatentDiffusion) -> None:
    sizes = torch.tensor([[480, 640, 0, 16, 64, 64], [64, 64, 0, 0, 64, 64]])
    told = model.told(batch(model, 2, sizes))
    if model.family.name != "sdxl":
        assert told.time_ids is None
        return
    assert told.time_ids is not None and torch.equal(told.time_ids, sizes.to(told.time_ids))
    noise, t = torch.randn(1, 4, 8, 8).expand(2, -1, -1, -1), torch.tensor([500, 500])
    same = Conditioning(told.hidden[:1].expand(2, -1, -1), told.pooled[:1].expand(2, -1), told.time_ids)
    with torch.no_grad():
        small, whole = model.predict(noise, t, same)
        default = model.predict(noise[:1], t[:1], model.encode_prompts(PROMPTS[:1]))
    assert not torch.allclose(small, whole)
    torch.testing.assert_close(whole, default[0])


def test_noise_offset_shifts_whole_channels(model: LatentDiffusion) -> None:
    it = batch(model, 2)
    plain, shifted = model.noised(it), model.noised(it, 0.1)
    shift = shifted.noise - plain.noise
    assert shift.std((2, 3)).max() < 1e-6 < shift.abs().max() < 0.5
    torch.testing.assert_close(shifted.noisy, model.add_noise(plain.latents, shifted.noise, plain.t))


def test_checkpointing_gives_the_same_gradients(model: LatentDiffusion) -> None:
    noise, t, told = torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), model.encode_prompts(PROMPTS)
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            model.checkpoint_gradients()
        weight = model.unet.mid_block.attentions[0].proj_in.weight.requires_grad_(True)
        loss = model.predict(noise, t, told).square().mean()
        found.append(torch.autograd.grad(loss, weight)[0])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("how", ["int8", "nf4"])
def test_a_quantised_unet_answers_nearly_the_same(
    how: str, model: LatentDiffusion, tiny_family: Callable[[str], str]
) -> None:
    packed = LatentDiffusion.load(tiny_family(model.family.name), how)
    weights = {p.dtype for n, p in packed.unet.named_parameters() if "attentions" in n and n.endswith("to_q.weight")}
    assert weights == {torch.int8 if how == "int8" else torch.uint8}
    noise, t, told = torch.randn(1, 4, 8, 8), torch.tensor([400]), model.encode_prompts(PROMPTS[:1])
    with torch.no_grad():
        whole, near = model.predict(noise, t, told), packed.predict(noise, t, told)
    error = ((whole - near).norm() / whole.norm()).item()
    assert 0 < error < (0.02 if how == "int8" else 0.2)


def test_half_precision_keeps_what_trains_whole(model: LatentDiffusion) -> None:
    trained = model.unet.mid_block.attentions[0].proj_in.weight.requires_grad_(True)
    model.hold_frozen(torch.bfloat16)
    assert trained.dtype == torch.float32 == model.vae.dtype
    frozen = {p.dtype for p in model.unet.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    from tuner.evaluation.pictures import pictures

    assert pictures(model.pipeline("dpm++"), ["a cat"], [1], steps=2)[0].size == (model.resolution,) * 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws(model: LatentDiffusion, sampler: str) -> None:
    from tuner.evaluation.pictures import pictures

    drawn = pictures(model.pipeline(sampler), ["a cat"], [1], steps=2, negative="a dog")[0]
    assert drawn.size == (model.resolution,) * 2


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("sd1", {"unet": 859.52, "vae": 83.65, "text_encoder": 123.06}),
        ("sd2", {"unet": 865.91, "vae": 83.65, "text_encoder": 340.39}),
        ("sdxl", {"unet": 2567.46, "vae": 83.65, "text_encoder": 123.06, "text_encoder_2": 694.66}),
    ],
)
def test_the_packaged_architectures_have_the_published_sizes(name: str, millions: dict[str, float]) -> None:
    model = published(name, "meta")
    assert isinstance(model, LatentDiffusion) and model.family.name == name
    found = {part: sum(p.numel() for p in net.parameters()) / 1e6 for part, net in model.networks.items()}
    assert found == pytest.approx(millions, abs=0.006)
    assert (model.resolution, model.unit) == {"sd1": (512, 64), "sd2": (768, 64), "sdxl": (1024, 32)}[name]


def test_idle_layers_have_no_gradient(model: LatentDiffusion) -> None:
    import re

    for name in model.family.encoders:
        getattr(model, name).requires_grad_(True)
    told = model.encode_prompts(PROMPTS)
    loss = model.predict(torch.randn(2, 4, 8, 8), torch.tensor([1, 500]), told).square().mean()
    loss.backward()
    for name in model.family.encoders:
        pattern = model.idle(name)
        for path, parameter in getattr(model, name).named_parameters():
            assert (parameter.grad is None) == bool(pattern and re.fullmatch(pattern, path)), path


def test_family_of_a_pipeline() -> None:
    from tuner.models.family import SD2, family_of

    config = types.SimpleNamespace(hidden_act="gelu")
    assert family_of(types.SimpleNamespace(text_encoder=types.SimpleNamespace(config=config))) is SD2
