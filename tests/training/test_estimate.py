"""What a dry run says: sizes that a real run has, and nothing on the disk."""

import os

import torch
from torch.utils.checkpoint import checkpoint

from tuner.config import build
from tuner.places import place
from tuner.recipe import load_recipe, recipe_class
from tuner.run import Run
from tuner.training.estimate import Allocated, estimate
from tuner.training.fit import fit
from tuner.training.precision import accelerator

MIB = 2**20
Lora = recipe_class(load_recipe(place("recipes") / "lora.py"))


def waves(x):
    return x.sin().cos().sin().cos()


def test_what_autograd_keeps_is_counted():
    x = torch.ones(MIB // 4, requires_grad=True)  # 1 MiB
    with torch.no_grad(), Allocated() as alone:
        waves(x)
    with Allocated() as kept:
        (waves(x) * 2).sum().backward()
    x.grad = None
    with Allocated() as again:
        (checkpoint(waves, x, use_reentrant=False) * 2).sum().backward()
    assert 2 * MIB <= alone.peak < 2.1 * MIB  # an operation's input and its result
    assert kept.peak > 4 * MIB
    assert alone.peak < again.peak


def test_views_and_what_was_there_before_are_not_counted():
    x = torch.ones(MIB // 4)
    with Allocated() as allocated:
        x.view(-1, 2).t().add_(1)
        del x
    assert allocated.peak == 0


def started(tmp_path, **options):
    config = build(Lora.Config, {"steps": 2, "batch_size": 4, "out": str(tmp_path / "run"), **options})
    run = Run.create(config, "lora", "it", writes=not config.dry_run)
    recipe = Lora(config, Lora.base(config))
    recipe.source = recipe.data(run)
    return recipe, run


def test_the_estimate_is_what_training_takes(tmp_path, tiny_base, images):
    recipe, run = started(tmp_path, base=tiny_base, images=images, ema=0.9)
    machine = accelerator(recipe.config)
    cost = estimate(recipe, machine)
    assert all(p.grad is None for p in recipe.parameters())
    assert not any(p.any() for n, p in recipe.named_parameters() if "lora_B" in n)  # nothing was learned
    with Allocated() as real:
        for _ in fit(recipe, recipe.source, run, machine):
            pass
    run.close()
    assert cost.trained == sum(p.numel() for p in recipe.parameters() if p.requires_grad)
    assert cost.trained < cost.total
    assert 0.8 < (cost.batch + cost.kept) / real.peak < 1.25


def test_a_dry_run_says_it_and_writes_nothing(tuner, tmp_path, tiny_base, images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    before = {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*")}
    result = tuner("lora", "--base", tiny_base, "--images", images, "--steps", 100, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "4 pictures, 100 steps of 4 (global batch)" in result.output
    assert "parameters train. About" in result.output and "of cpu memory" in result.output
    assert "for 100 steps" in result.output
    assert {path: os.stat(path).st_mtime_ns for path in tmp_path.rglob("*")} == before
