"""Resuming through the command line: what the run was started with need not be said again."""

from pathlib import Path

from tuner.adapters.artifact import Artifact


def tensors(folder: Path) -> dict:
    return Artifact.load(folder / f"{folder.name}.safetensors").tensors


def test_resume_takes_the_runs_own_options(tuner, tmp_path, tiny_base, images):
    options = ("--base", tiny_base, "--images", images, "--learning-rate", 0.01, "--batch-size", 3, "--seed", 7)
    whole = tuner("lora", *options, "--steps", 4, "--out", tmp_path / "a", "--name", "a")
    assert whole.exit_code == 0, whole.output
    half = tuner("lora", *options, "--steps", 2, "--out", tmp_path / "b", "--name", "b")
    assert half.exit_code == 0, half.output
    more = tuner("lora", "--resume", "--out", tmp_path / "b", "--steps", 4)
    assert more.exit_code == 0, more.output
    first, second = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
    changed = tuner("lora", "--resume", "--out", tmp_path / "b", "--steps", 6, "--seed", 8)
    assert changed.exit_code == 2
    assert "--seed" in changed.stderr


def test_a_base_brings_its_defaults(tuner, tmp_path, tiny_base, images):
    import shutil

    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / "training.toml").write_text("[lora]\nsteps = 3\nlearning_rate = 0.02\nnot_an_option = 1\n")
    result = tuner("lora", "--base", base, "--images", images, "--learning-rate", 0.01, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    written = (tmp_path / "run" / "config.toml").read_text()
    assert "steps = 3\n" in written and "learning_rate = 0.01\n" in written
