"""Every optimizer: what it remembers, that it resumes bit for bit, and on which schedule it moves."""

import sys
from pathlib import Path

import pytest
import torch

from tuner.config import build
from tuner.errors import RequestError
from tuner.places import place
from tuner.recipe import TrainConfig, load_recipe, recipe_class
from tuner.run import Run
from tuner.training import checkpoints, optimizers
from tuner.training.fit import fit
from tuner.training.precision import accelerator

NAMES = ["adamw", "adamw8bit", "paged-adamw8bit", "lion8bit", "adafactor", "prodigy", "muon"]
Lora = recipe_class(load_recipe(place("recipes") / "lora.py"))


@pytest.fixture
def options(tiny_base, images):
    return {"base": tiny_base, "images": images, "steps": 4, "save_every": 2, "batch_size": 2, "seed": 5}


def started(out: Path, **options):
    config = build(Lora.Config, {"learning_rate": 1e-3, **options, "out": str(out)})
    run = Run.create(config, "lora", "it")
    recipe = Lora(config, Lora.base(config))
    recipe.source = recipe.data(run)
    return recipe, run


def trained(out: Path, until: int = 0, **options) -> dict[str, torch.Tensor]:
    """The parameters after training, broken off after step `until` where one is named."""
    recipe, run = started(out, **options)
    steps = fit(recipe, recipe.source, run, accelerator(recipe.config))
    for step in steps:
        if step.step == until:
            break
    steps.close()
    run.close()
    return {name: p.detach().clone() for name, p in recipe.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_resumes_bit_for_bit(options, tmp_path, name):
    options |= {"optimizer": name, **optimizers.PREFERRED.get(name, {})}
    whole = trained(tmp_path / "whole", **options)
    trained(tmp_path / "cut", until=3, **options)  # step 3 is lost
    again = trained(tmp_path / "cut", resume=True, **options)
    assert whole.keys() == again.keys()
    assert [key for key in whole if not torch.equal(whole[key], again[key])] == []
    assert all(value.any() for value in whole.values())  # B has left zero, for every layer


@pytest.mark.parametrize("name", ["adamw8bit", "paged-adamw8bit", "lion8bit"])
def test_eight_bits_are_eight_bits_for_every_parameter_of_a_lora(options, tmp_path, name):
    recipe, run = started(tmp_path / "run", **{**options, "steps": 2, "optimizer": name})
    count = sum(p.requires_grad for p in recipe.parameters())
    assert max(p.numel() for p in recipe.parameters() if p.requires_grad) < 4096  # bitsandbytes' own limit
    for _ in fit(recipe, recipe.source, run, accelerator(recipe.config)):
        pass
    run.close()
    kept, _ = checkpoints.newest(run.checkpoints)
    moments = [v for k, v in kept.tensors["optimizer"].items() if k.rpartition("/")[2] in ("state1", "state2")]
    assert len(moments) == count * (1 if name == "lion8bit" else 2)
    assert {moment.dtype for moment in moments} == {torch.uint8}
    assert all(moment.unique().numel() > 1 for moment in moments)


@pytest.mark.gpu
def test_paged_memory_stays_paged_when_it_is_resumed():
    weight = torch.nn.Parameter(torch.zeros(512, 512, device="cuda"))
    config = build(TrainConfig, {"optimizer": "paged-adamw8bit"})
    first, second = (optimizers.optimizer(config, [{"params": [weight]}]) for _ in range(2))
    weight.grad = torch.randn_like(weight)
    first.step()
    checkpoints.unpack_optimizer(second, *checkpoints.pack_optimizer(first))
    for name in ("state1", "state2"):
        assert second.state[weight][name].is_paged
        assert torch.equal(second.state[weight][name].cpu(), first.state[weight][name].cpu())


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_its_memory_is_known_beforehand(name):
    config = build(TrainConfig, {"optimizer": name})
    shapes = [(300, 40), (1000,), (8, 8, 3, 3)]
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = optimizers.optimizer(config, [{"params": parameters}])
    for p in parameters:
        p.grad = torch.randn_like(p)
    optimizer.step()
    kept, _ = checkpoints.pack_optimizer(optimizer)
    real = sum(v.nbytes for k, v in kept.items() if not k.rpartition("/")[2].startswith(("qmap", "step", "RMS")))
    assert optimizers.state_bytes(name, parameters) == real


def test_prodigys_rate_is_remembered():
    """Its estimate stands in the parameter group, not in the state."""
    weight = torch.nn.Parameter(torch.ones(3))
    config = build(TrainConfig, {"optimizer": "prodigy", "learning_rate": 1.0})
    first, second = (optimizers.optimizer(config, [{"params": [weight]}]) for _ in range(2))
    for _ in range(5):
        weight.grad = 2 * weight.detach()
        first.step()
    assert first.param_groups[0]["d"] > 1e-6
    checkpoints.unpack_optimizer(second, *checkpoints.pack_optimizer(first))
    noted = {key: value for key, value in first.param_groups[0].items() if key != "params"}
    assert noted == {key: value for key, value in second.param_groups[0].items() if key != "params"}


def test_prodigy_takes_one_rate():
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (1.0, 0.5)]
    with pytest.raises(RequestError, match="one learning rate"):
        optimizers.optimizer(build(TrainConfig, {"optimizer": "prodigy"}), groups)


def test_prodigy_has_a_learning_rate_of_its_own_where_none_is_named(tuner, tmp_path, tiny_base, images):
    call = ("lora", "--base", tiny_base, "--images", images, "--optimizer", "prodigy", "--steps", 1)
    result = tuner(*call, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "learning_rate = 1.0\n" in (tmp_path / "run" / "config.toml").read_text()


@pytest.mark.parametrize(("name", "package"), [("lion8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_a_missing_package_is_one_sentence(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)  # what an import finds where the package is not installed
    with pytest.raises(RequestError, match=f"--optimizer {name} needs {package}: pip install {package}"):
        optimizers.optimizer(build(TrainConfig, {"optimizer": name}), [])


def test_the_cosine_starts_again():
    config = build(TrainConfig, {"lr_scheduler": "cosine", "lr_cycles": 2, "steps": 20})
    rates = [optimizers.learning_rate(config)(step) for step in range(20)]
    assert rates[0] == rates[10] == 1.0 and rates[9] < 0.05
