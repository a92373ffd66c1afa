"""The loop's promises: damaged checkpoints, gradients that are not finite, interruption, schedules, averages."""

import os
import signal

import pytest
import torch

from tuner.config import build
from tuner.data.source import Source
from tuner.errors import Interrupted, RunError
from tuner.recipe import Recipe, TrainConfig
from tuner.run import Run
from tuner.training import checkpoints
from tuner.training.fit import PATIENCE, fit
from tuner.training.precision import accelerator


class Line(Recipe):
    """A straight line to be fitted: the smallest recipe there is."""

    poison: range = range(0)

    def __init__(self, config, model=None):
        super().__init__(config, model)
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.taken = 0

    def forward(self, batch):
        self.taken += 1
        x = batch.draw.normal("x", 3)
        error = (x @ self.weight - x.sum(1)).square()
        return error * float("nan") if self.taken - 1 in self.poison else error

    def after_step(self, step):
        self.last = step


def start(tmp_path, **options):
    values = {"steps": 20, "learning_rate": 0.1, "save_every": 5, "batch_size": 4, "out": str(tmp_path / "run")}
    config = build(TrainConfig, values | options)
    run = Run.create(config, "line", "line")
    source = Source(config.seed, config.batch_size * config.accumulate, [str(i) for i in range(6)])
    return Line(config), source, run


def go(recipe, source, run):
    rows = []
    for step in fit(recipe, source, run, accelerator(recipe.config)):
        run.log(step.row())
        rows.append(step)
    run.close()
    return rows


def test_it_learns_and_reports(tmp_path):
    recipe, source, run = start(tmp_path, steps=150)
    rows = go(recipe, source, run)
    assert torch.allclose(recipe.weight, torch.ones(3), atol=0.05)
    assert [row.step for row in rows] == list(range(1, 151))
    assert rows[-1].images == 600
    assert recipe.last == 150
    assert run.metrics()[-1] == rows[-1].row()


def test_old_checkpoints_are_pruned(tmp_path):
    recipe, source, run = start(tmp_path, keep=2)
    go(recipe, source, run)
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["0000015", "0000020"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "state"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    recipe, source, run = start(tmp_path)
    go(recipe, source, run)
    file = run.checkpoints / "0000020" / ("state.json" if damage == "state" else "optimizer.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "flip":
        content[-3] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 2])
    again, source, run = start(tmp_path, resume=True)
    said = []
    for step in fit(again, source, run, accelerator(again.config), said.append):
        assert step.step >= 16
    assert len(said) == 1 and "0000020" in said[0]
    assert torch.equal(again.weight, recipe.weight)


def test_no_whole_checkpoint_is_no_silent_fresh_start(tmp_path):
    recipe, source, run = start(tmp_path)
    go(recipe, source, run)
    for file in run.checkpoints.rglob("state.json"):
        file.write_text("{")
    again, source, run = start(tmp_path, resume=True)
    with pytest.raises(RunError, match="whole"):
        go(again, source, run)


def test_a_step_that_is_not_finite_changes_nothing(tmp_path):
    recipe, source, run = start(tmp_path, steps=8, save_every=0)
    recipe.poison = range(3, 5)
    before = None
    for step in fit(recipe, source, run, accelerator(recipe.config)):
        if step.step in (4, 5):
            assert torch.equal(recipe.weight, before)
            assert step.loss != step.loss
        before = recipe.weight.detach().clone()
    assert recipe.weight.isfinite().all()


def test_many_of_them_stop_the_run_and_keep_the_checkpoint(tmp_path):
    recipe, source, run = start(tmp_path, steps=40, save_every=5)
    recipe.poison = range(7, 100)
    with pytest.raises(RunError, match=f"{PATIENCE} steps in a row"):
        go(recipe, source, run)
    kept = sorted(p.name for p in run.checkpoints.iterdir())
    assert "0000005" in kept
    assert recipe.weight.isfinite().all()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_saves_and_resuming_goes_on(tmp_path, number):
    whole, source, run = start(tmp_path / "whole")
    go(whole, source, run)
    recipe, source, run = start(tmp_path / "cut")
    with pytest.raises(Interrupted, match="--resume"):
        for step in fit(recipe, source, run, accelerator(recipe.config)):
            if step.step == 7:
                os.kill(os.getpid(), number)
    run.close()
    assert (run.checkpoints / "0000007").is_dir()
    again, source, run = start(tmp_path / "cut", resume=True)
    rows = go(again, source, run)
    assert rows[0].step == 8
    assert torch.equal(again.weight, whole.weight)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_killed_before_the_first_checkpoint_leaves_no_stale_metrics(tmp_path):
    recipe, source, run = start(tmp_path, save_every=0)
    steps = fit(recipe, source, run, accelerator(recipe.config))
    for step in steps:
        run.log(step.row())
        if step.step == 6:
            break
    steps.close()
    run.close()
    again, source, run = start(tmp_path, save_every=0, resume=True)
    go(again, source, run)
    assert [row["step"] for row in run.metrics()] == list(range(1, 21))


def test_an_average_with_skipped_steps_resumes_bit_for_bit(tmp_path):
    options = {"ema": 0.99, "steps": 12}
    whole, source, run = start(tmp_path / "whole", **options)
    whole.poison = range(1, 4)
    go(whole, source, run)
    cut, source, run = start(tmp_path / "cut", **options)
    cut.poison = range(1, 4)
    steps = fit(cut, source, run, accelerator(cut.config))
    next(step for step in steps if step.step == 7)
    steps.close()
    run.close()
    again, source, run = start(tmp_path / "cut", resume=True, **options)
    go(again, source, run)
    assert torch.equal(again.weight, whole.weight)


def test_averaged_weights_are_exported_and_resumed(tmp_path):
    options = {"ema": 0.9, "lr_scheduler": "cosine", "warmup_steps": 3}
    whole, source, run = start(tmp_path / "whole", **options)
    go(whole, source, run)
    cut, source, run = start(tmp_path / "cut", **options)
    steps = fit(cut, source, run, accelerator(cut.config))
    for step in steps:
        if step.step == 12:
            raw = cut.weight.detach().clone()
            with step.averaged():
                assert not torch.equal(cut.weight, raw)
            assert torch.equal(cut.weight, raw)
            break
    steps.close()
    run.close()
    again, source, run = start(tmp_path / "cut", resume=True, **options)
    rows = go(again, source, run)
    assert torch.equal(again.weight, whole.weight)
    assert rows[-1].learning_rate < 0.01


def test_the_learning_rate_is_diffusers_own(tmp_path):
    from diffusers.optimization import get_scheduler

    recipe, source, run = start(tmp_path, lr_scheduler="linear", warmup_steps=5)
    ours = [step.learning_rate for step in go(recipe, source, run)]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = get_scheduler("linear", optimizer, num_warmup_steps=5, num_training_steps=20)
    for rate in ours:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_eight_bit_states_are_eight_bit_and_resume(tmp_path):
    pytest.importorskip("bitsandbytes")
    whole, source, run = start(tmp_path / "whole", optimizer="adamw8bit")
    go(whole, source, run)
    kept, _ = checkpoints.newest(run.checkpoints)
    moments = {k: v.dtype for k, v in kept.tensors["optimizer"].items() if k.endswith(("state1", "state2"))}
    assert set(moments.values()) == {torch.uint8}
    cut, source, run = start(tmp_path / "cut", optimizer="adamw8bit")
    steps = fit(cut, source, run, accelerator(cut.config))
    next(step for step in steps if step.step == 12)
    steps.close()
    run.close()
    again, source, run = start(tmp_path / "cut", optimizer="adamw8bit", resume=True)
    go(again, source, run)
    assert torch.equal(again.weight, whole.weight)
