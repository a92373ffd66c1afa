"""Muon against its definition, torch's own, and AdamW for what is no matrix."""

import pytest
import torch

from tuner.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (6, 40), (40, 6)])
def test_singular_values_come_near_one(shape):
    torch.manual_seed(1)
    matrix = torch.randn(shape) * 7
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.6 and values.max() < 1.3  # the polynomial's own band
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    cosine = torch.nn.functional.cosine_similarity(orthogonal(matrix).flatten(), (left @ right).flatten(), dim=0)
    assert cosine > 0.97


def moved(make, shapes, steps=5):
    torch.manual_seed(2)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = make(parameters)
    for step in range(steps):
        for number, parameter in enumerate(parameters):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(10 * step + number))
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def test_matrices_move_as_torchs_muon_moves_them():
    options = {"lr": 1e-2, "weight_decay": 0.1}
    ours = moved(lambda p: Muon(p, **options), [(12, 30), (30, 12)])
    theirs = moved(lambda p: torch.optim.Muon(p, **options, adjust_lr_fn="match_rms_adamw"), [(12, 30), (30, 12)])
    start = moved(lambda p: Muon(p, lr=0.0), [(12, 30), (30, 12)])
    for one, other, before in zip(ours, theirs, start, strict=True):
        assert (one - other).norm() < 0.03 * (other - before).norm()  # torch computes in bfloat16


def test_everything_else_moves_as_adamw_moves_it():
    options = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.99)}
    ours = moved(lambda p: Muon(p, **options), [(7,), ()])
    theirs = moved(lambda p: torch.optim.AdamW(p, **options), [(7,), ()])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(ours, theirs, strict=True))
    table = moved(lambda p: Muon([{"params": p, "matrices": False}], **options), [(5, 4)])
    assert torch.allclose(table[0], moved(lambda p: torch.optim.AdamW(p, **options), [(5, 4)])[0], atol=1e-6)


def test_a_kernel_is_a_matrix_of_a_row_an_output_channel():
    (kernel,) = moved(lambda p: Muon(p, lr=1e-2), [(6, 3, 2, 2)], steps=1)
    torch.manual_seed(2)
    before = torch.randn(6, 3, 2, 2) * (1 - 1e-2 * 0.01)
    change = (before - kernel).flatten(1) / (1e-2 * 0.2 * 12**0.5)
    values = torch.linalg.svdvals(change)
    assert values.min() > 0.6 and values.max() < 1.3
