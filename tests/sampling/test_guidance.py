"""What is done to predictions equals its definition, on tensors made by hand."""

import pytest
import torch

from tuner.models.samplers import SAMPLERS, schedule, signal_at
from tuner.sampling.guidance import clean, guided, restated, thresholded
from tuner.sampling.shots import Shot

KINDS = ("epsilon", "v_prediction", "sample")


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_guidance_and_its_rescaling():
    unwanted, wanted = of(0, 0, 0, 0), of(1, -1, 1, -1)
    torch.testing.assert_close(guided(unwanted, wanted, 3), of(3, -3, 3, -3))
    torch.testing.assert_close(guided(unwanted, wanted, 3, 1.0), wanted)  # eq. 15: the deviation of the prompt's own
    torch.testing.assert_close(guided(unwanted, wanted, 3, 0.25), of(2.5, -2.5, 2.5, -2.5))  # eq. 16
    two = guided(torch.cat([unwanted, of(1, 1, 0, 0)]), torch.cat([wanted, of(0, 5, 2, 1)]), 3, 0.5)
    torch.testing.assert_close(two[1:], guided(of(1, 1, 0, 0), of(0, 5, 2, 1), 3, 0.5))  # each picture for itself


def test_static_threshold():
    torch.testing.assert_close(thresholded(of(-5, -0.5, 0.2, 1.5), "static", 99.5), of(-1, -0.5, 0.2, 1))
    torch.testing.assert_close(thresholded(of(-5, -0.5, 0.2, 1.5), "static", 99.5, 2.0), of(-2, -0.5, 0.2, 1.5))


def test_dynamic_threshold():
    x0 = of(0, 1, -2, 3, -4)  # |x0| has its 75th percentile at 3: clipped to [-3, 3], divided by 3
    torch.testing.assert_close(thresholded(x0, "dynamic", 75), of(0, 1 / 3, -2 / 3, 1, -1))
    torch.testing.assert_close(thresholded(x0, "dynamic", 75, 2.0), of(0, 2 / 3, -4 / 3, 2, -2))  # in units of 2
    torch.testing.assert_close(thresholded(x0 / 8, "dynamic", 75), x0 / 8)  # s < 1 counts as 1
    both = thresholded(torch.cat([x0, x0 / 8]), "dynamic", 75)
    torch.testing.assert_close(both, torch.cat([of(0, 1 / 3, -2 / 3, 1, -1), x0 / 8]))  # each picture for itself


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_and_its_finished_picture(model, kind):
    x0, noise, signal = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor(0.3)
    noisy = signal.sqrt() * x0 + (1 - signal).sqrt() * noise
    predictions = {"epsilon": noise, "sample": x0, "v_prediction": signal.sqrt() * noise - (1 - signal).sqrt() * x0}
    torch.testing.assert_close(clean(predictions[kind], noisy, signal, kind), x0)
    torch.testing.assert_close(restated(x0, noisy, signal, kind), predictions[kind])


@pytest.mark.parametrize(
    ("family", "sampler"), [*(("sd1", sampler) for sampler in SAMPLERS), ("sd2", "dpm++"), ("sd2", "ddim")]
)
def test_every_samplers_last_step_lands_within_the_threshold(family_model, latents_of, family, sampler):
    """The last step of these samplers goes to the finished picture itself, or all but its last trace of noise."""
    pipe = family_model(family).pipeline(sampler)
    shot = [Shot("a cat", 1, "", 3, 9.0)]
    free = latents_of(pipe, shot)
    held = latents_of(pipe, shot, threshold="static", threshold_at=0.5)
    assert free.abs().max() > 0.7 and held.abs().max() < 0.65
    far = latents_of(pipe, shot, threshold="dynamic", threshold_at=1e4)  # a bound that nothing reaches
    torch.testing.assert_close(far, free, rtol=1e-3, atol=1e-3 * free.std().item())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_signal_at_a_step_is_that_of_the_scheduler(model, sampler):
    """Noised by the scheduler and scaled for the model, latents of one value have that share of signal."""
    scheduler = model.pipeline(sampler).scheduler
    times = schedule(scheduler, 6, 0.5, torch.device("cpu"))
    ones = torch.ones(1, 4, 8, 8)
    noisy = scheduler.scale_model_input(scheduler.add_noise(ones, torch.zeros_like(ones), times[:1]), times[0])
    signal = signal_at(scheduler, len(scheduler.timesteps) - 3, times[0])
    torch.testing.assert_close(noisy, ones * signal.sqrt(), rtol=1e-4, atol=0)
