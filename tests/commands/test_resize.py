"""`tuner resize`: more ranks are exact, fewer are the nearest; the strength stays."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.adapters.drawn import adapter, apart, deltas, modules, saved, with_rows
from tuner.adapters.artifact import Artifact
from tuner.adapters.lora import Lora
from tuner.adapters.naming import targets, weight_of
from tuner.models.latent_diffusion import LatentDiffusion


@pytest.fixture(scope="session")
def base(tiny_base: str) -> LatentDiffusion:
    return LatentDiffusion.load(tiny_base)


@pytest.fixture(scope="session")
def bases(tiny_family: Callable[[str], str]) -> Callable[[str], LatentDiffusion]:
    return cache(lambda family: LatentDiffusion.load(tiny_family(family)))


@pytest.mark.parametrize("naming", ["kohya", "diffusers"])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_up_is_exact(family: str, naming: str, bases: Callable, tuner: Callable, tmp_path: Path) -> None:
    """The matrices as they were, then zeros; alpha over rank as it was; in the naming that it had."""
    base = bases(family)
    path = saved(adapter(base, 1, rank=3, alpha=2, trigger_phrase="sks"), tmp_path / "cat.safetensors", naming)
    out = tmp_path / "out.safetensors"
    result = tuner("resize", path, "--rank", 8, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "8 (was 3)" in result.stdout and "none" in result.stdout
    before, after = Artifact.load(path), Artifact.load(out)
    assert before.tensors.keys() == after.tensors.keys()
    for name, tensor in before.tensors.items():
        if name.endswith(("lora_down.weight", "lora_A.weight")):
            assert torch.equal(after.tensors[name][:3], tensor) and not after.tensors[name][3:].any()
        elif name.endswith(("lora_up.weight", "lora_B.weight")):
            assert torch.equal(after.tensors[name][:, :3], tensor) and not after.tensors[name][:, 3:].any()
    changes = Lora.from_artifact(after, base).changes
    assert all(change.scale == pytest.approx(2 / 3) for change in changes.values())
    assert after.metadata["modelspec.trigger_phrase"] == "sks" and after.metadata["tuner.method"] == "resize"
    assert tuner("verify", out, "--base", base.identity).exit_code == 0


@pytest.mark.parametrize("kind", ["lora", "core", "loha", "lokr", "full"])
@pytest.mark.parametrize("flags", [("--rank", 2), ("--energy", 0.8)])
def test_down_is_the_nearest(flags: tuple, kind: str, base: LatentDiffusion, tuner: Callable, tmp_path: Path) -> None:
    """And the error is the tail of the singular values, module by module and in total."""
    path = saved(adapter(base, 1, rank=4, alpha=3, kind=kind), tmp_path / "cat.safetensors")
    out, wanted = tmp_path / "out.safetensors", deltas(path, base)
    result = tuner("resize", path, *flags, "--out", out, "--base", base.identity, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    lost = size = 0.0
    for figure, tensor in zip(told["modules"].values(), wanted.values(), strict=True):
        values = torch.linalg.svdvals(tensor.flatten(1)).square()
        tail = float(values[figure["rank"] :].sum())
        assert figure["error"] == pytest.approx((tail / float(values.sum())) ** 0.5, rel=1e-3)
        assert figure["rank"] == 2 or flags[0] == "--energy"
        lost, size = lost + tail, size + float(values.sum())
    assert told["error"] == pytest.approx((lost / size) ** 0.5, rel=1e-4)
    assert apart(deltas(out, base), wanted) == pytest.approx((lost / size) ** 0.5, rel=1e-3)
    assert all("lora_up.weight" in group for group in modules(out).values())
    assert tuner("verify", out, "--base", base.identity).exit_code == 0


def test_there_and_back_is_what_it_was(base: LatentDiffusion, tuner: Callable, tmp_path: Path) -> None:
    path = saved(adapter(base, 1, rank=3), tmp_path / "cat.safetensors", dtype=torch.float16)
    assert tuner("resize", path, "--rank", 9, "--out", tmp_path / "nine.safetensors").exit_code == 0
    tensors = Artifact.load(tmp_path / "nine.safetensors").tensors
    assert {t.dtype for n, t in tensors.items() if not n.endswith("alpha")} == {torch.float16}
    back = tmp_path / "back.safetensors"
    call = ("resize", tmp_path / "nine.safetensors", "--rank", 3, "--save-precision", "fp32", "--out", back)
    assert tuner(*call).exit_code == 0
    assert apart(deltas(back, base), deltas(path, base)) < 1e-5


def test_a_dora_keeps_the_lengths_of_its_rows(base: LatentDiffusion, tuner: Callable, tmp_path: Path) -> None:
    path = with_rows(saved(adapter(base, 1, rank=4), tmp_path / "cat.safetensors"), base)
    up, down = tmp_path / "up.safetensors", tmp_path / "down.safetensors"
    refused = tuner("resize", path, "--rank", 8, "--out", up)
    assert refused.exit_code == 2 and "is a DoRA" in refused.stderr and not up.exists()
    for out, rank in ((up, 8), (down, 2)):
        assert tuner("resize", path, "--rank", rank, "--out", out, "--base", base.identity).exit_code == 0
        assert tuner("verify", out, "--base", base.identity).exit_code == 0
    wanted = deltas(path, base)
    for out in (up, down):
        lora = Lora.from_artifact(Artifact.load(out), base)
        weights = {n: weight_of(base, targets(base)[n]).weight.detach() for n in lora.changes}
        found = {n: change.delta(weights[n]) for n, change in lora.changes.items()}
        if out == up:
            assert apart(found, wanted) < 2e-6
        for name, delta in found.items():
            rows = [(weights[name] + one.float()).flatten(1).norm(dim=1) for one in (delta, wanted[name])]
            assert torch.allclose(*rows, rtol=1e-4)


def test_wrong_requests(base: LatentDiffusion, tuner: Callable, tmp_path: Path) -> None:
    path = saved(adapter(base, 1), tmp_path / "cat.safetensors")
    out = ("--out", tmp_path / "out.safetensors")
    for call, words in [
        ((path, *out), "needs --rank N or --energy X"),
        ((path, "--rank", 2, "--energy", 0.5, *out), "give one of them"),
        ((path, "--rank", -2, *out), "at least 1"), ((path, "--energy", 0, *out), "more than 0"),
        ((path, "--rank", 2), "--out FILE"),
        ((path, "--rank", 2, "--out", path), "is there already"), (("--rank", 2, *out), "takes one file, not none"),
        ((tmp_path / "no.safetensors", "--rank", 2, *out), "no such file"),
        ((path, "--rank", "two", *out), "whole number"),
    ]:  # fmt: skip
        result = tuner("resize", *call)
        assert result.exit_code == 2 and words in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"cat.safetensors"}
