"""Wrong requests to the real command line: one sentence, the right exit code, nothing lost and nothing left behind."""

from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(result, *words: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    sentence = result.stderr.strip()
    assert "\n" not in sentence and "Traceback" not in result.output
    for word in words:
        assert word in sentence, sentence


def test_no_pictures(tuner, here, tiny_base):
    lora = ("lora", "--base", tiny_base, "--steps", 1, "--out", "run")
    refused(tuner(*lora), "--images")
    refused(tuner(*lora, "--images", "nowhere"), "nowhere", "no such folder")
    (here / "empty").mkdir()
    refused(tuner(*lora, "--images", "empty"), "empty", "no picture")
    (here / "empty" / "bad.png").write_bytes(b"\x89PNG")
    refused(tuner(*lora, "--images", "empty"), "bad.png")
    assert not (here / "run").exists()


def test_unreadable_pictures_among_good_ones_are_named_and_left_out(tuner, here, tiny_base, images):
    whole = (Path(images) / "red.png").read_bytes()
    (Path(images) / "torn.png").write_bytes(whole[: len(whole) // 2])
    (Path(images) / "empty.png").write_bytes(b"")
    result = tuner("lora", "--base", tiny_base, "--steps", 1, "--images", images, "--out", "run", "--learning-rate", 1)
    assert result.exit_code == 0, result.output
    assert "torn.png" in result.output and "empty.png" in result.output and "4 pictures" in result.output


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--network-dim", "4"], ["--network-dim", "--rank"]),
        (["--network_dim", "4"], ["--rank"]),
        (["--pretrained_model_name_or_path", "x"], ["--base"]),
        (["--train_data_dir", "x"], ["--images"]),
        (["--rnak", "4"], ["--rnak", "--rank"]),
        (["--rank", "0"], ["--rank", "at least 1"]),
        (["--rank", "many"], ["--rank", "many"]),
        (["--optimizer", "sgd"], ["--optimizer", "sgd", "adamw"]),
        (["--base", "nowhere"], ["nowhere"]),
        (["--base", "./nowhere/at/all"], ["nowhere"]),
        (["--resolution", "33"], ["--resolution 33"]),
        (["--resume"], ["no run to resume"]),
    ],
)
def test_wrong_options(tuner, here, tiny_base, images, flags, words):
    base = [] if "--base" in flags else ["--base", tiny_base]
    result = tuner("lora", *base, "--images", images, "--steps", 1, "--out", "run", *flags)
    refused(result, *words)
    assert not (here / "run").exists()


def test_unknown_key_in_a_file(tuner, here, images):
    (here / "mine.toml").write_text(f'images = "{images}"\nrnak = 4\n')
    refused(tuner("lora", "--config", "mine.toml"), "mine.toml", "rnak", "rank")


def test_out_that_holds_another_run(tuner, here, tiny_base, images):
    call = ("lora", "--base", tiny_base, "--images", images, "--steps", 1, "--out", "run", "--learning-rate", 1)
    assert tuner(*call).exit_code == 0
    before = {p: p.read_bytes() for p in (here / "run").rglob("*") if p.is_file()}
    refused(tuner(*call, "--seed", 5), "run", "--resume")
    assert before == {p: p.read_bytes() for p in (here / "run").rglob("*") if p.is_file()}


def test_a_finished_run_says_so(tuner, here, tiny_base, images):
    call = ("lora", "--base", tiny_base, "--images", images, "--steps", 1, "--out", "run", "--learning-rate", 1)
    assert tuner(*call).exit_code == 0
    again = tuner(*call, "--resume")
    assert again.exit_code == 0 and "finished" in again.output


def test_dry_run_writes_nothing(tuner, here, tiny_base, images):
    result = tuner("lora", "--base", tiny_base, "--images", images, "--steps", 5, "--out", "run", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "4 pictures" in result.output and "parameters" in result.output
    assert not (here / "run").exists() and not (here / "runs").exists()
