"""Trackers: what TensorBoard and Weights & Biases read back is what metrics.jsonl says."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

BLOCK = 1 << 15
FLAGS = ["--learning-rate", "1e-2", "--lr-scheduler", "cosine", "--save-every", "2", "--sample-every", "2"]


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def records(log: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format, in blocks of 32 KiB, behind a header of 7 bytes."""
    place, whole = 7, b""
    while place + 7 <= len(log):
        if (room := BLOCK - place % BLOCK) < 7:  # too small for a header: padding
            place += room
            continue
        _, size, kind = struct.unpack_from("<IHB", log, place)  # checksum, length, 1 whole, 2 first, 3 middle, 4 last
        whole += log[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            yield whole
            whole = b""


def test_tensorboard_says_what_metrics_say_and_goes_on_when_resumed(tuner, tmp_path, tiny_base, images):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    call = ("lora", "--base", tiny_base, "--images", images, *FLAGS, "--track", "tensorboard", "--out", run)
    assert tuner(*call, "--steps", 5).exit_code == 0
    kept = run / "checkpoints"
    (kept / "0000005").rename(tmp_path / "gone")  # as if killed after step 5: it is taken again
    (run / "README.md").unlink()
    again = tuner("lora", "--resume", "--out", run, "--steps", 7)
    assert again.exit_code == 0, again.output
    log = EventAccumulator(str(run / "logs" / "tensorboard"))
    log.Reload()
    rows = metrics(run)
    for name in ("loss", "grad_norm", "learning_rate"):
        scalars = log.Scalars(name)
        assert [scalar.step for scalar in scalars] == [row["step"] for row in rows] == list(range(1, 8))
        assert [scalar.value for scalar in scalars] == [np.float32(row[name]) for row in rows]
    assert {2, 4, 6, 7} <= {image.step for image in log.Images("samples")}


def test_wandb_offline_says_what_metrics_say(tuner, tmp_path, tiny_base, images, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    call = ("lora", "--base", tiny_base, "--images", images, *FLAGS, "--track", "wandb", "--steps", 3, "--out", run)
    result = tuner(*call)
    assert result.exit_code == 0, result.output
    (file,) = run.glob("logs/wandb/offline-run-*/*.wandb")
    rows = {}
    for data in records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        if "loss" in items:
            rows[record.history.step.num] = {name: json.loads(value) for name, value in items.items()}
    for row in metrics(run):
        assert all(rows[row["step"]][name] == row[name] for name in ("loss", "grad_norm", "learning_rate"))
    assert list((run / "logs" / "wandb").glob("offline-run-*/files/media/images/samples_*.png"))


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_told_first(tuner, tmp_path, images, monkeypatch, name):
    import importlib.util

    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda what, *rest: None if what == name else known(what, *rest))
    result = tuner("lora", "--base", "nowhere", "--images", images, "--track", name, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert f"--track {name} needs {name}" in result.stderr and not (tmp_path / "run").exists()


def test_neither_is_imported_unless_asked_for():
    probe = "import sys, tuner.training.job; print({'tensorboard', 'wandb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
