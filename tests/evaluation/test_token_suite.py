"""`tuner evaluate` of learned words: prompts name them, and before is what they began from."""

import json
from pathlib import Path

import pytest

from tuner.commands.show import Silent
from tuner.config import build
from tuner.evaluation.bench import Bench, Judged
from tuner.evaluation.request import Config
from tuner.evaluation.words import called, learned, without
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.sampling.drawing import draw

FAST = ("--no-world", "--count", 2, "--steps", 2, "--quiet")


@pytest.fixture
def run(tuner, tiny_base, images, tmp_path, monkeypatch):
    """The folder of a finished run: <bear>, of two vectors, which began as a cat."""
    monkeypatch.chdir(tmp_path)
    done = tuner("textual-inversion", "--base", tiny_base, "--images", images, "--token", "<bear>", "--init", "cat",
                 "--out", "runs/bear", "--vectors", 2, "--steps", 2, "--samples", 0,
                 "--learning-rate", 0.5, "--quiet")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    return Path("runs/bear")


def test_a_run_and_its_file_alone(tuner, run, tiny_base):
    asked = ("--prompt", "{} on a table", "--other", "a dog", "--other", "a cat")
    assert tuner("evaluate", run, *FAST, *asked).exit_code == 0
    call = ("--base", tiny_base, "--adapter", run / "bear.safetensors", "--images", "pictures", "--out", "alone")
    done = tuner("evaluate", *call, *FAST, *asked)
    assert done.exit_code == 0, done.stderr
    of_run, alone = (json.loads((f / "report.json").read_text()) for f in (run / "report", Path("alone")))
    assert of_run["figures"] == alone["figures"] and of_run["suite"] == alone["suite"] == "subject"
    assert [row["label"] for row in alone["grids"][0]["rows"]] == ["a <bear> on a table"]
    by_name = {figure["name"]: figure for figure in alone["figures"]}
    assert by_name["likeness-judge"]["change"]["value"] != 0
    assert by_name["drift of others-judge"]["after"]["value"] == pytest.approx(0, abs=1e-9)  # no other word moves
    assert any("No judge knows <bear>" in note and "began from: cat" in note for note in alone["notes"])


def test_before_is_what_the_word_began_from(run, tiny_base):
    config = build(Config, {"base": tiny_base, "steps": 2, "count": 1})
    adapters = [(run / "bear.safetensors", 1.0)]
    bench = Bench("subject", Judged("bear", tiny_base, adapters), config, Silent())
    before, after = (call(bench.shots(["a <bear> on a red background"])) for call in (bench.before, bench.after))
    pipe = LatentDiffusion.load(tiny_base).pipeline(config.sampler)
    cat = list(draw(pipe, bench.shots(["a cat on a red background"])))
    unknown = list(draw(pipe, bench.shots(["a <bear> on a red background"])))
    assert before[0].tobytes() == cat[0].tobytes()
    assert len({one.tobytes() for one in (before[0], after[0], unknown[0])}) == 3


def test_without_reference_pictures_its_word_stands_in_the_prompts(tuner, run, tiny_base):
    call = ("--base", tiny_base, "--adapter", run / "bear.safetensors", "--prompt", "{} on a table", "--out", "alone")
    done = tuner("evaluate", *call, *FAST)
    assert done.exit_code == 0, done.stderr
    report = json.loads(Path("alone/report.json").read_text())
    assert report["suite"] == "prompts"
    assert [row["label"] for row in report["grids"][0]["rows"]] == ["a <bear> on a table"]


def test_a_subject_that_nothing_names_is_asked_for(tuner, tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = tuner("evaluate", "--base", tiny_base, "--prompt", "{} on a table", "--out", "out", *FAST)
    assert done.exit_code == 2 and "say so by --subject TEXT." in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and not Path("out").exists()
    named = ("--subject", "a cat", "--prompt", "{} on a table", "--prompt", "a dog")
    assert tuner("evaluate", "--base", tiny_base, *named, "--out", "out", *FAST).exit_code == 0
    labels = [row["label"] for row in json.loads(Path("out/report.json").read_text())["grids"][0]["rows"]]
    assert labels == ["a cat on a table", "a dog"]
    monkeypatch.chdir(tmp_path)
    base = ("--base", tiny_base, "--prompt", "{} on a table", "--prompt", "a dog")
    assert tuner("evaluate", *base, "--out", "some", *FAST).exit_code == 0  # those of no subject remain
    labels = [row["label"] for row in json.loads(Path("some/report.json").read_text())["grids"][0]["rows"]]
    assert labels == ["a dog"]


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a <bear> on a red background", "on a red background"),
        ("a photo of a <BEAR> in the snow", "a photo of in the snow"),
        ("the <bear>", ""),
        ("a teddy bear and a bear", "a teddy bear and a bear"),
        ("<bear>, red background", ", red background"),
    ],
)
def test_prompts_are_read_without_learned_words(run, prompt, read):
    adapters = [(run / "bear.safetensors", 1.0)]
    assert called(adapters) == "a <bear>"
    assert without(prompt, learned(adapters)) == read
    assert called([]) == "" and without(prompt, []) == " ".join(prompt.split())
