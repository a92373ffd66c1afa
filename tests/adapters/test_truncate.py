"""Truncations, TIES and DARE against dense references written out, and hashes against the library's own file."""

import hashlib

import pytest
import torch
from safetensors.torch import save

from tuner.adapters.changes import LowRank
from tuner.adapters.combine import factors
from tuner.adapters.hashes import hashes
from tuner.adapters.interference import dare, ties
from tuner.adapters.truncate import Keep, of_whole, truncated


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("out", "rank", "inputs"), [(40, 6, 90), (90, 6, 40), (12, 30, 20), (8, 8, 8)])
@pytest.mark.parametrize("keep", [Keep(rank=3), Keep(rank=100), Keep(energy=0.8), Keep(energy=1.0)])
def test_the_nearest_matrix_of_that_rank(out: int, rank: int, inputs: int, keep: Keep) -> None:
    """The product of factors is never formed where it has few ranks; the result is that of the dense decomposition."""
    up, down = drawn(out, rank), drawn(rank, inputs, seed=1)
    values = torch.linalg.svdvals(up.double() @ down.double())
    found, dense = truncated(up, down, keep), of_whole(up @ down, keep)
    kept = found.up.shape[1]
    there = min(out, rank, inputs)
    if keep.rank:
        assert kept == min(keep.rank, there)
    else:
        shares = values.square().cumsum(0) / values.square().sum()
        assert kept == (there if keep.energy == 1 else int((shares < keep.energy).sum()) + 1)
    tail = float(values[kept:].square().sum())
    apart = float((found.up.double() @ found.down.double() - up.double() @ down.double()).square().sum())
    size = float(values.square().sum())
    assert apart == pytest.approx(tail, rel=1e-6, abs=1e-10 * size)
    assert found.lost == pytest.approx(tail, rel=1e-6, abs=1e-10 * size)
    assert found.size == pytest.approx(size, rel=1e-5)
    assert torch.allclose(found.up @ found.down, dense.up @ dense.down, atol=1e-4)
    assert torch.allclose(found.up.norm(dim=0), found.down.norm(dim=1), rtol=1e-3), "both have the same share"


def test_rounding_is_no_rank() -> None:
    """A matrix of rank 3 that was added to a large one and taken away again."""
    low, large = drawn(64, 3) @ drawn(3, 64, seed=1), 10 * drawn(64, 64, seed=2)
    found = of_whole((large + low) - large, Keep(rank=64), noise=1e-3)
    assert found.up.shape[1] == 3
    assert of_whole(torch.zeros(4, 4), Keep(rank=2)).lost == 0


def test_factors_have_the_scale() -> None:
    change = LowRank(drawn(2, 3, 3, 3), drawn(5, 2, 1, 1, seed=1), 7.0)
    up, down = factors([change, change.times(-0.5)], (5, 3, 3, 3))
    assert torch.allclose(up @ down, 0.5 * change.update(), atol=1e-5)


def reference_ties(differences: list[torch.Tensor], density: float) -> torch.Tensor:
    """Algorithm 1 of the paper, number by number."""
    flat = [difference.flatten().tolist() for difference in differences]
    trimmed = []
    for values in flat:
        kept = sorted(range(len(values)), key=lambda i: -abs(values[i]))[: round(density * len(values))]
        trimmed.append([value if i in kept else 0.0 for i, value in enumerate(values)])
    result = []
    for column in zip(*trimmed, strict=True):
        sign = (sum(column) > 0) - (sum(column) < 0)
        agreeing = [value for value in column if value * sign > 0]
        result.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return torch.tensor(result).view_as(differences[0])


@pytest.mark.parametrize("density", [0.1, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_ties(density: float, count: int) -> None:
    differences = [drawn(9, 11, seed=seed) * (1 + seed) for seed in range(count)]
    assert torch.allclose(ties(differences, density), reference_ties(differences, density), atol=1e-6)
    if density == 1 and count == 1:
        assert torch.equal(ties(differences, density), differences[0])


def test_ties_does_not_let_opposites_cancel() -> None:
    one, other = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[-1.0, 1.0, 2.0]])
    assert ties([one, other], 1.0).tolist() == [[3.0, 1.0, 2.0]]


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_dare(density: float) -> None:
    """Each number stays with that probability and is divided by it; the same seeds give the same numbers."""

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (1, 2)]

    differences = [drawn(400, 50, seed=seed) for seed in range(2)]
    found = dare(differences, density, generators())
    masks = [torch.rand(400, 50, generator=generator) < density for generator in generators()]
    wanted = sum(d * mask / density for d, mask in zip(differences, masks, strict=True))
    assert torch.allclose(found, wanted, atol=1e-6)
    alone = dare(differences[:1], density, generators()[:1])
    assert float((alone != 0).float().mean()) == pytest.approx(density, abs=0.02)
    direction = differences[0]
    assert float((alone * direction).sum() / direction.square().sum()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("size", [10, 700, 20_000])
def test_hashes_are_those_of_the_file(size: int) -> None:
    types = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]
    tensors = {f"k{n}": drawn(size, 7, seed=n).to(dtype) for n, dtype in enumerate(types * 2)}
    tensors |= {"one": torch.tensor(3.0), "none": torch.empty(0, 3), "turned": drawn(5, 6).T}
    for training in ({}, {"ss_é": 'x\n"y"\x07', "ss_b": "z"}, {"ss_long": "w" * 2_000_000}):
        data = save({name: t.contiguous() for name, t in tensors.items()}, training or None)
        digest = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
        wanted = {"modelspec.hash_sha256": f"0x{digest}"}
        if training:
            legacy = hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
            wanted |= {"sshs_model_hash": digest, "sshs_legacy_hash": legacy}
        assert hashes(tensors, training) == wanted
