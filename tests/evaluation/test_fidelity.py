"""PSNR and SSIM equal scikit-image's."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tuner.bundled import world
from tuner.errors import RequestError
from tuner.evaluation.features import tensor
from tuner.evaluation.fidelity import psnr, ssim


@pytest.fixture(scope="module")
def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes, 40 x 56, and noisy ones; the last of them is flat."""
    clean = tensor([world.draw(it) for it in world.scenes(9201, 5, ("dog", "rocket"))])[:, :, :40, :56]
    clean[4] = 0.3
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    return clean, (clean + 0.1 * noise).clamp(0, 1)


def test_equal_to_scikit_image(pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
    clean, noisy = pairs
    for a, b, decibels, likeness in zip(clean, noisy, psnr(noisy, clean), ssim(noisy, clean), strict=True):
        first, second = a.double().numpy(), b.double().numpy()
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
        wanted = structural_similarity(first, second, channel_axis=0, **options)
        assert likeness.item() == pytest.approx(wanted, abs=1e-9) and 0 < wanted < 0.9
        assert decibels.item() == pytest.approx(peak_signal_noise_ratio(first, second, data_range=1.0), abs=1e-9)


def test_equal_pictures(pairs: tuple[torch.Tensor, torch.Tensor]) -> None:
    clean = pairs[0]
    np.testing.assert_allclose(ssim(clean, clean), 1, atol=1e-12)
    assert all(math.isinf(value) for value in psnr(clean, clean).tolist())


def test_known_by_hand() -> None:
    gray, lighter = torch.full((1, 3, 11, 11), 0.5), torch.full((1, 3, 11, 11), 0.6)
    assert psnr(gray, lighter).item() == pytest.approx(20, abs=1e-5)
    assert ssim(gray, lighter).item() == pytest.approx((2 * 0.3 + 1e-4) / (0.25 + 0.36 + 1e-4), abs=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 20), "not pairs"),
        (torch.rand(2, 3, 16, 16), torch.rand(1, 3, 16, 16), "not pairs"),
        (torch.rand(0, 3, 16, 16), torch.rand(0, 3, 16, 16), "not pairs"),
        (torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16), "not pairs"),
        (torch.rand(1, 3, 16, 16) * 255, torch.rand(1, 3, 16, 16), "between 0 and 1"),
        (torch.rand(1, 3, 16, 16) * torch.nan, torch.rand(1, 3, 16, 16), "between 0 and 1"),
        (torch.rand(1, 3, 10, 30), torch.rand(1, 3, 10, 30), "11 pixels"),
    ],
)
def test_what_cannot_be_compared(ours: torch.Tensor, theirs: torch.Tensor, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        ssim(ours, theirs)
