"""A run's folder: who may have it, what resuming may change, what a crash leaves; how many threads it takes."""

import json

import pytest
import torch

from tuner.config import build, read_toml
from tuner.errors import RequestError
from tuner.files import replacing, write_text
from tuner.randomness import use_threads
from tuner.recipe import TrainConfig
from tuner.run import Run


def run(tmp_path, **options) -> Run:
    return Run.create(build(TrainConfig, {"out": str(tmp_path / "run"), **options}), "test", "it")


def test_another_run_is_not_overwritten(tmp_path):
    first = run(tmp_path)
    content = (first.folder / "config.toml").read_text()
    first.close()
    with pytest.raises(RequestError, match="holds another run"):
        run(tmp_path, seed=9)
    assert (first.folder / "config.toml").read_text() == content


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    with pytest.raises(RequestError, match="not an empty folder"):
        run(tmp_path)
    assert (tmp_path / "run" / "letter.txt").read_text() == "mine"


def test_names_count_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [Run.create(build(TrainConfig, {}), "test", "bear").folder.as_posix() for _ in range(3)]
    assert folders == ["runs/bear", "runs/bear-2", "runs/bear-3"]
    again = Run.create(build(TrainConfig, {"resume": True}), "test", "bear", writes=False)
    assert again.folder.as_posix() == "runs/bear-3"


def test_two_processes_cannot_have_one_folder(tmp_path):
    first = run(tmp_path)
    with pytest.raises(RequestError, match="in use"):
        run(tmp_path, resume=True)
    first.close()
    run(tmp_path, resume=True).close()


def test_resuming_may_change_steps_but_not_what_was_learned(tmp_path):
    run(tmp_path, steps=10, seed=1).close()
    run(tmp_path, steps=20, seed=1, resume=True, save_every=3).close()
    with pytest.raises(RequestError, match="--seed was 1"):
        run(tmp_path, steps=20, seed=2, resume=True)
    assert read_toml(tmp_path / "run" / "config.toml")["steps"] == 20


def test_a_resumed_run_keeps_its_threads(tmp_path):
    run(tmp_path, threads=2).close()
    again = run(tmp_path, threads=1, resume=True)
    assert again.values["threads"] == 2
    assert read_toml(again.folder / "config.toml")["threads"] == 2


def test_fewer_steps_than_were_taken_do_not_rewrite_the_run(tmp_path):
    it = run(tmp_path, steps=5)
    it.log({"step": 5, "loss": 0.5})
    it.close()
    run(tmp_path, steps=2, resume=True).close()
    assert read_toml(it.folder / "config.toml")["steps"] == 5


def test_nothing_to_resume(tmp_path):
    with pytest.raises(RequestError, match="no run to resume"):
        run(tmp_path, resume=True)


def test_a_read_only_folder_is_refused_before_anything(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        Run.create(build(TrainConfig, {"out": str(tmp_path / "file" / "run")}), "test", "it")


def test_metrics_are_cut_back_and_a_torn_line_is_left_out(tmp_path):
    it = run(tmp_path)
    for step in range(1, 6):
        it.log({"step": step, "loss": 0.5})
    with open(it.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    assert [row["step"] for row in it.metrics()] == [1, 2, 3, 4, 5]
    it.cut_metrics(3)
    lines = (it.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_metrics_stay_json_when_a_loss_is_not_finite(tmp_path):
    it = run(tmp_path)
    it.log({"step": 1, "loss": float("nan")})
    assert "NaN" not in (it.folder / "metrics.jsonl").read_text()
    assert it.metrics() == [{"step": 1, "loss": None}]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    target = tmp_path / "file.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), replacing(target) as part:
        part.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_files_have_the_permissions_of_any_other(tmp_path):
    import torch

    from tuner.adapters.artifact import Artifact

    (tmp_path / "plain").write_text("")
    Artifact({"a": torch.zeros(2)}).save(tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_discarding_leaves_nothing(tmp_path):
    it = run(tmp_path)
    it.discard()
    assert not it.folder.exists()


def test_a_run_that_fails_lets_go_of_its_folder(tuner, tmp_path, tiny_base, images):
    call = ("lora", "--base", tiny_base, "--images", images, "--steps", 9, "--learning-rate", "1e38", "--out")
    for more in ([], ["--resume"]):
        result = tuner(*call, tmp_path / "run", *more)
        assert result.exit_code == 1 and "not finite" in result.stderr  # the second time too: it is not "in use"
    assert all(json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())


def test_pictures_that_are_not_there_are_told_before_the_base_is_loaded(tuner, tmp_path):
    for images in ([], ["--images", "./nowhere"]):
        result = tuner("lora", "--base", "./none", *images, "--out", tmp_path / "run")
        assert result.exit_code == 2 and "--images" in result.stderr and "--base" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_batch_may_be_cut_otherwise_when_it_is_resumed_but_not_grow(tmp_path):
    it = run(tmp_path, batch_size=4)
    it.log({"step": 3, "images": 12})
    it.close()
    again = Run.create(
        build(TrainConfig, {"out": str(it.folder), "batch_size": 2, "resume": True}), "test", "it", processes=2
    )
    again.close()
    run(tmp_path, batch_size=1, accumulate=4, resume=True).close()
    with pytest.raises(RequestError, match=r"takes 4 pictures a step.*make it 8: make it 4"):
        run(tmp_path, batch_size=8, resume=True)


def test_threads_are_as_many_as_wanted_else_no_more_than_there_were():
    threads = torch.get_num_threads()
    try:
        assert use_threads(3) == torch.get_num_threads() == 3
        assert 1 <= use_threads() <= 3  # what others leave idle
        assert use_threads(1) == use_threads() == 1
    finally:
        torch.set_num_threads(threads)
