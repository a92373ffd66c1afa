"""Two processes do what one does with the same global batch: by the real command line, real launchers, real kills."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tuner.adapters.artifact import Artifact
from tuner.launch import _value

ROOT = Path(__file__).parents[1]
STEPS = 20


@pytest.fixture
def flags(tiny_base, images) -> list[str]:
    return ["--base", tiny_base, "--images", images, "--learning-rate", "1e-3", "--seed", "7", "--name", "it"]


def environment() -> dict[str, str]:
    """Without what a launcher around pytest may have set."""
    launchers = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {k: v for k, v in os.environ.items() if k not in launchers} | {"OMP_NUM_THREADS": "1"}


def lora(*words: object) -> list[str]:
    return [str(ROOT / "cli.py"), "lora", *map(str, words)]


def accelerate(*words: object) -> list[str]:
    launcher = Path(sys.executable).with_name("accelerate")
    return [str(launcher), "launch", "--cpu", "--num_processes", "2", *lora(*words)]


def by_hand(*words: object, other: Sequence[str] = ()) -> list[subprocess.Popen]:
    """The two processes as torchrun would start them, without its seconds of imports; `other` is for the second."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = environment() | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    calls = [[sys.executable, *lora(*words)], [sys.executable, *lora(*words, *other)]]
    return [
        subprocess.Popen(call, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, **pipes)
        for rank, call in enumerate(calls)
    ]


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    told = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *words) for process, words in zip(processes, told, strict=True)]


def rows(folder: Path) -> list[dict]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def tensors(folder: Path) -> dict:
    return dict(Artifact.load(folder / "it.safetensors").tensors)


def assert_same_training(one: Path, two: Path, loss: float = 1e-5, weights: float = 5e-4) -> None:
    """The losses of every step, and the tensors, which differ by what Adam makes of rounding.

    Args:
        loss: how far losses may be apart.
        weights: how far a tensor may be off, in parts of its norm.
    """
    mine, its = rows(one), rows(two)
    assert [row["step"] for row in its] == list(range(1, len(mine) + 1))
    assert [row["images"] for row in mine] == [row["images"] for row in its]
    for first, second in zip(mine, its, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], abs=loss)
        assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=100 * loss)
    mine, its = tensors(one), tensors(two)
    assert mine.keys() == its.keys()
    for name in mine:
        assert (mine[name] - its[name]).norm() <= weights * mine[name].norm(), name


def test_they_equal_one_process_with_the_same_global_batch(tuner, flags, tmp_path):
    two = accelerate(*flags, "--batch-size", 2, "--steps", STEPS, "--out", tmp_path / "two")
    done = subprocess.run(two, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one = tuner("lora", *flags, "--batch-size", 4, "--steps", STEPS, "--out", tmp_path / "one")
    assert one.exit_code == 0, one.output
    assert_same_training(tmp_path / "one", tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")  # nothing is written by both, and nothing beside
    said = done.stdout.splitlines()
    assert len(said) == len(set(said)) and sum(line.startswith("Done.") for line in said) == 1
    assert "20 steps of 4 (global batch)" in done.stdout and "2 processes" in done.stdout
    assert "Warning" not in done.stderr and "Error" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "loss", "weights"),
    [
        (["--train-text-encoder"], 1e-5, 5e-4),
        (["--precision", "bf16"], 5e-3, 1e-1),
        (["--ema", "0.9", "--lr-scheduler", "cosine", "--caption-dropout", "0.3"], 1e-5, 5e-4),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "",
)
def test_so_they_do_when_accumulating_and_with_other_options(tuner, flags, tmp_path, more, loss, weights):
    flags = [*flags, *more, "--steps", "20"]
    codes = ended(by_hand(*flags, "--batch-size", 1, "--accumulate", 2, "--out", tmp_path / "two"))
    assert [code for code, *_ in codes] == [0, 0], codes
    assert codes[1][1:] == ("", "")  # the second process says nothing
    one = [sys.executable, *lora(*flags, "--batch-size", 4, "--out", tmp_path / "one")]
    subprocess.run(one, env=environment(), check=True)
    assert_same_training(tmp_path / "one", tmp_path / "two", loss, weights)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("accelerate launch --cpu --num_processes 2 cli.py lora", "2"),
        ("accelerate launch --num-processes=3 cli.py lora", "3"),
        ("accelerate launch --cpu cli.py lora", None),
    ],
)
def test_the_launchers_words_are_understood(words, value):
    assert _value(words.split(), "num_processes") == value


def test_a_launcher_that_does_not_say_how_many_is_named(tmp_path):
    """As where accelerate has the number from its configuration's file: one process alone would train with less."""
    asked = {"MASTER_PORT": "29500", "ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}
    call = [sys.executable, *lora("--out", tmp_path / "run")]
    done = subprocess.run(call, env=environment() | asked, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "torchrun --nproc-per-node" in done.stderr


def test_a_mistyped_option_is_told_once(tmp_path):
    first, second = ended(by_hand("--rnak", 3, "--out", tmp_path / "run"))
    assert (first[0], second[0]) == (2, 2)
    assert "--rank" in first[2] and second[1:] == ("", "")


def test_an_error_of_the_first_process_ends_both_and_is_told_once(flags, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    first, second = ended(by_hand(*flags, "--steps", 1, "--out", tmp_path / "run"))
    assert first[0] == 2 and second[0] in (1, 2)  # the first one may be gone before the second asks for its code
    assert "not an empty folder" in first[2] and len(first[2].splitlines()) == 1
    assert second[1:] == ("", "")
    assert files(tmp_path / "run") == {"letter.txt"}


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["the folder", "its pictures"])
def test_an_error_of_the_second_process_ends_both_and_is_told_once(flags, tmp_path, missing):
    """The second one finds other pictures, as where a machine lacks them: at once, or while both read them."""
    lacking = tmp_path / "lacking"
    if missing == "its pictures":
        lacking.mkdir()
    first, second = ended(by_hand(*flags, "--steps", 1, "--out", tmp_path / "run", other=["--images", str(lacking)]))
    assert first[0] == second[0] == 2
    assert "lacking" in second[2] and len(second[2].splitlines()) == 1
    assert first[2] == ""
    assert not (tmp_path / "run").exists()


def until(folder: Path, step: int, processes: list[subprocess.Popen]) -> None:
    while len(rows_so_far(folder)) < step:
        time.sleep(0.02)
        assert all(process.poll() is None for process in processes)


def rows_so_far(folder: Path) -> list[str]:
    file = folder / "metrics.jsonl"
    return file.read_text().splitlines() if file.is_file() else []


@pytest.mark.slow
def test_killed_and_resumed_they_equal_an_unbroken_run(flags, tmp_path):
    flags = [*flags, "--batch-size", "2", "--steps", "30", "--save-every", "5"]
    whole = ended(by_hand(*flags, "--out", tmp_path / "whole"))
    assert [code for code, *_ in whole] == [0, 0], whole
    cut = by_hand(*flags, "--out", tmp_path / "cut")
    until(tmp_path / "cut", 12, cut)
    for process in cut:
        os.kill(process.pid, signal.SIGKILL)
    ended(cut)
    more = ended(by_hand(*flags, "--out", tmp_path / "cut", "--resume"))
    assert [code for code, *_ in more] == [0, 0], more
    assert_same_training(tmp_path / "whole", tmp_path / "cut", 0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("to", [0, 1])
def test_a_signal_to_one_stops_both_at_the_same_step(flags, tmp_path, to):
    flags = [*flags, "--batch-size", "2", "--steps", "200", "--out", tmp_path / "run"]
    processes = by_hand(*flags)
    until(tmp_path / "run", 5, processes)
    os.kill(processes[to].pid, signal.SIGTERM)
    first, second = ended(processes)
    assert first[0] == second[0] == 130
    stopped = len(rows(tmp_path / "run"))
    assert 5 <= stopped < 200
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"{stopped:07d}"]
    assert f"Stopped after step {stopped}" in first[2] and second[2] == ""
    other = subprocess.run(
        [sys.executable, *lora("--resume", "--out", tmp_path / "run", "--steps", stopped + 2, "--batch-size", 2)],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert other.returncode == 2 and "4 pictures a step" in other.stderr
    whole = [*lora("--resume", "--out", tmp_path / "run", "--steps", stopped + 2, "--batch-size", 4)]
    subprocess.run([sys.executable, *whole], env=environment(), check=True)
    assert [row["images"] for row in rows(tmp_path / "run")] == [4 * k for k in range(1, stopped + 3)]


@pytest.mark.slow
def test_a_signal_to_the_launcher_reaches_both(flags, tmp_path):
    launcher = subprocess.Popen(
        accelerate(*flags, "--batch-size", 2, "--steps", 400, "--out", tmp_path / "run"),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(tmp_path / "run", 5, [launcher])
    launcher.terminate()  # accelerate itself dies at once
    _, errors = launcher.communicate(timeout=300)  # ... and its output ends with the last process
    stopped = len(rows(tmp_path / "run"))
    assert 5 <= stopped < 400
    assert errors.count(f"Stopped after step {stopped}") == 1
    assert (tmp_path / "run" / "checkpoints" / f"{stopped:07d}").is_dir()


@pytest.mark.slow
def test_when_one_dies_the_other_says_so(flags, tmp_path):
    processes = by_hand(*flags, "--batch-size", 2, "--steps", 400, "--save-every", 5, "--out", tmp_path / "run")
    until(tmp_path / "run", 7, processes)
    os.kill(processes[1].pid, signal.SIGKILL)
    first, _ = ended(processes)
    assert first[0] == 1
    assert "Another process of this run has ended" in first[2] and len(first[2].splitlines()) == 1
    assert (tmp_path / "run" / "checkpoints" / "0000005").is_dir()
