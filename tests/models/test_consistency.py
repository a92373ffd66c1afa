"""Consistency functions agree with diffusers' schedulers, end where they should, and are what they are called."""

import pytest
import torch
from torch import Tensor

from tuner.errors import RequestError
from tuner.models.consistency import Way, embedded, huber, reweighted, scalings, tell_guidance
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.models.samplers import scheduler
from tuner.models.shifts import unadapted

KINDS = ("epsilon", "v_prediction", "sample")


@pytest.fixture
def model(tiny_base) -> LatentDiffusion:
    return LatentDiffusion.load(tiny_base)


@pytest.fixture(params=KINDS)
def of_kind(request, model) -> LatentDiffusion:
    model.scheduler_config["prediction_type"] = request.param
    return model


def noise(seed: int, count: int = 4) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def told(model: LatentDiffusion, count: int = 2):
    return model.encode_prompts(["a cat", "a red dog", "a teddy bear"][:count])


def test_the_scalings_are_those_of_the_lcm_scheduler(model):
    theirs = scheduler("lcm", model.scheduler_config)
    times = torch.tensor([0, 1, 19, 499, 999])
    for t, skip, out in zip(times.tolist(), *(values.flatten().tolist() for values in scalings(times)), strict=True):
        assert (skip, out) == pytest.approx(theirs.get_scalings_for_boundary_condition_discrete(t), rel=1e-6)


@pytest.mark.parametrize("steps", [50, 40, 10, 2])
def test_the_way_has_the_timesteps_of_the_lcm_scheduler(model, steps):
    begin, then, edge = Way.of(model, steps).at(torch.arange(steps))
    theirs = scheduler("lcm", {**model.scheduler_config, "original_inference_steps": steps})
    theirs.set_timesteps(steps)
    assert begin.flip(0).tolist() == theirs.timesteps.tolist()
    assert then.tolist() == [0, *begin[:-1].tolist()]
    assert edge.tolist() == [0] * steps


def test_its_steps_are_those_of_ddim(of_kind):
    theirs, way = scheduler("ddim-trailing", of_kind.scheduler_config), Way.of(of_kind, 50)
    theirs.set_timesteps(50)
    begin, then, _ = way.at(torch.tensor([0, 1, 30, 49]))
    noisy, prediction = noise(1), noise(2)
    ours = way.stepped(noisy, prediction, begin, then)
    for row, t in enumerate(begin):
        one = theirs.step(prediction[row : row + 1], t, noisy[row : row + 1]).prev_sample
        assert torch.allclose(ours[row : row + 1], one, atol=1e-4, rtol=1e-5)


def test_its_end_is_what_the_lcm_scheduler_takes_for_the_picture(of_kind):
    theirs, way = scheduler("lcm", of_kind.scheduler_config), Way.of(of_kind, 50)
    theirs.set_timesteps(4)
    noisy, prediction = noise(1), noise(2)
    ours = way.end(noisy, prediction, theirs.timesteps, torch.zeros(4, dtype=torch.long))
    for row, t in enumerate(theirs.timesteps):
        one = theirs.step(prediction[row : row + 1], t, noisy[row : row + 1]).denoised
        assert torch.allclose(ours[row : row + 1], one, atol=1e-4, rtol=1e-5)


def test_phases_end_where_ddim_comes_by_in_as_many_steps(of_kind):
    way, theirs = Way.of(of_kind, 40, 4), scheduler("ddim-trailing", of_kind.scheduler_config)
    begin, _, edge = way.at(torch.arange(40))
    assert edge.tolist() == [0] * 10 + [249] * 10 + [499] * 10 + [749] * 10
    theirs.set_timesteps(4)
    assert theirs.timesteps.tolist() == begin[9::10].flip(0).tolist()
    noisy, prediction = noise(1), noise(2)
    ours = way.end(noisy, prediction, begin[9::10], edge[9::10])
    for row in range(4):
        one = theirs.step(prediction[row : row + 1], begin[9::10][row], noisy[row : row + 1]).prev_sample
        assert torch.allclose(ours[row : row + 1], one, atol=2e-4)


def test_at_an_edge_it_is_the_identity(of_kind):
    edges = torch.tensor([0, 249, 499, 749])
    assert torch.equal(Way.of(of_kind, 40, 4).end(noise(1), 100 * noise(2), edges, edges), noise(1))


@pytest.mark.parametrize("phases", [1, 5])
def test_what_is_consistent_has_no_loss(of_kind, phases):
    """Of a world that holds one picture all ways are straight, and the right predictions are known."""
    way, picture = Way.of(of_kind, 50, phases), noise(3)

    def right(noisy: Tensor, t: Tensor, picture: Tensor = picture) -> Tensor:
        spread = (1 - of_kind.alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)
        signal = of_kind.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
        return of_kind.target(picture, ((noisy - signal * picture) / spread).float(), t)

    def loss(wrong: float) -> Tensor:
        """With a student whose picture depends on how noisy it is."""
        begin, then, edge = way.at(torch.tensor([0, 9, 30, 49]))
        noisy = of_kind.add_noise(picture, noise(4), begin)
        closer = way.stepped(noisy, right(noisy, begin), begin, then)
        shifted = [picture + wrong * t.view(-1, 1, 1, 1) / 1000 for t in (begin, then)]
        mine = way.end(noisy, right(noisy, begin, shifted[0]), begin, edge)
        return huber(mine - way.end(closer, right(closer, then, shifted[1]), then, edge))

    assert (loss(0.0) < 1e-6).all()
    assert (loss(1.0) > 5e-3).all()


def test_huber_is_the_formula_and_loses_nothing_near_zero():
    d = noise(1).double()
    assert torch.allclose(huber(d), ((d.square() + 1e-6).sqrt() - 1e-3).mean((1, 2, 3)))
    assert huber(torch.zeros(2, 4, 8, 8)).tolist() == [0, 0]
    assert huber(torch.full((1, 4, 8, 8), 1e-6)).item() == pytest.approx(5e-10, rel=1e-3)


@pytest.mark.parametrize("width", [32, 256])
def test_guidance_is_told_as_diffusers_pipelines_tell_it(model, width):
    scales = torch.tensor([1.0, 2.5, 8.5, 15.0])
    theirs = model.pipeline("lcm").get_guidance_scale_embedding(scales - 1, embedding_dim=width)
    assert torch.allclose(embedded(scales, width), theirs, atol=2e-3)  # angles of up to 14,000, in fp32


def test_a_unet_that_listens_to_guidance_is_at_first_what_it_was(model, tiny_base):
    from diffusers import UNet2DConditionModel

    tell_guidance(model.unet)
    t, scales, plain = torch.tensor([500, 20]), torch.tensor([3.0, 9.0]), LatentDiffusion.load(tiny_base)
    with torch.no_grad():
        assert torch.equal(
            model.predict(noise(1, 2), t, told(model), guidance=scales),
            plain.predict(noise(1, 2), t, told(plain), guidance=scales),
        )
        torch.nn.init.normal_(model.unet.time_embedding.cond_proj.weight)
        low, high = (model.predict(noise(1, 2), t, told(model), guidance=torch.full((2,), s)) for s in (3.0, 9.0))
        assert not torch.allclose(low, high)
        again = UNet2DConditionModel.from_config(model.unet.config).eval()
        again.load_state_dict(model.unet.state_dict())
        model.unet = again
        assert torch.equal(low, model.predict(noise(1, 2), t, told(model), guidance=torch.full((2,), 3.0)))


def test_without_its_adapters_a_network_is_the_base_and_then_has_them_again(model, tiny_base):
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(r=4, target_modules=r".*to_q|.*conv1", init_lora_weights=False)
    inject_adapter_in_model(settings, model.unet)
    plain, t = LatentDiffusion.load(tiny_base), torch.tensor([500, 20])
    trains = {name for name, p in model.unet.named_parameters() if p.requires_grad}

    def said(it: LatentDiffusion) -> Tensor:
        with torch.no_grad():
            return it.predict(noise(1, 2), t, told(it))

    changed = said(model)
    with pytest.raises(ZeroDivisionError), unadapted(model.unet):
        assert torch.equal(said(model), said(plain)) and not torch.equal(changed, said(plain))
        raise ZeroDivisionError
    assert torch.equal(said(model), changed)
    assert {name for name, p in model.unet.named_parameters() if p.requires_grad} == trains != set()


def test_other_weights_are_used_where_they_are(model):
    weights = {name: p.detach() * 1.1 for name, p in model.unet.named_parameters() if "conv" in name}
    other, t = reweighted(model, weights), torch.tensor([500, 20])
    with torch.no_grad():
        before, found = (it.predict(noise(1, 2), t, told(model)) for it in (model, other))
        for weight in weights.values():
            weight.mul_(2)
        later = other.predict(noise(1, 2), t, told(model))
        assert torch.equal(model.predict(noise(1, 2), t, told(model)), before)
        model.unet.load_state_dict({**model.unet.state_dict(), **weights})
        assert torch.equal(model.predict(noise(1, 2), t, told(model)), later)
    assert not torch.allclose(found, before) and not torch.allclose(found, later)


def test_what_cannot_teach_is_refused(model):
    with pytest.raises(RequestError, match="--teacher-steps 30 does not divide this base's 1000"):
        Way.of(model, 30)
    tell_guidance(model.unet)
    with pytest.raises(RequestError, match="was distilled already"):
        Way.of(model, 50)
