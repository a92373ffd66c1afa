"""Precision: bf16 trains on a CPU, fp16 on a GPU alone; what is exported is fp32 unless told otherwise."""

import json
import math

import pytest
import torch

from tuner.adapters.artifact import Artifact
from tuner.config import build
from tuner.recipe import TrainConfig
from tuner.training import checkpoints
from tuner.training.precision import accelerator


def losses(folder) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_bf16_trains_on_a_cpu_and_exports_fp32(tuner, tmp_path, tiny_base, images):
    told = {}
    for precision in ("bf16", "fp32"):
        call = ("lora", "--base", tiny_base, "--images", images, "--steps", 6, "--learning-rate", "1e-2")
        result = tuner(*call, "--precision", precision, "--name", "it", "--out", tmp_path / precision)
        assert result.exit_code == 0, result.output
        assert f"; cpu, {precision}," in result.output
        told[precision] = losses(tmp_path / precision)
        tensors = Artifact.load(tmp_path / precision / "it.safetensors").tensors
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert told["bf16"] != told["fp32"]
    assert told["bf16"] == pytest.approx(told["fp32"], rel=0.02)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_fp16_on_a_cpu_is_refused_before_anything(tuner, tmp_path, images):
    result = tuner("lora", "--base", "nowhere", "--images", images, "--precision", "fp16", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "--precision fp16 needs a GPU" in result.stderr and "bf16" in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_precision_of_one_run_is_not_that_of_the_next():
    for precision, wanted in (("fp32", "no"), ("bf16", "bf16"), ("fp32", "no")):
        assert accelerator(build(TrainConfig, {"precision": precision})).mixed_precision == wanted


@pytest.mark.gpu
def test_fp16_finds_its_scale_and_resumes_bit_for_bit(tuner, tmp_path, tiny_base, images):
    call = ("lora", "--base", tiny_base, "--images", images, "--precision", "fp16", "--name", "it", "--save-every", 4)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert tuner(*call, "--steps", 8, "--out", whole).exit_code == 0
    assert tuner(*call, "--steps", 4, "--out", cut).exit_code == 0
    assert tuner(*call, "--steps", 8, "--out", cut, "--resume").exit_code == 0
    kept, _ = checkpoints.newest(cut / "checkpoints")
    assert kept.state["scaler"]["scale"] > 1
    assert all(math.isfinite(loss) for loss in losses(whole)) and losses(whole) == losses(cut)
    one, other = (Artifact.load(folder / "it.safetensors").tensors for folder in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)
