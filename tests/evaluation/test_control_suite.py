"""`tuner evaluate` of control networks: what it draws after, what it finds, what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tuner.commands.evaluate import report_of
from tuner.commands.show import Silent
from tuner.config import build
from tuner.evaluation.bench import Bench, Judged
from tuner.evaluation.request import Config
from tuner.evaluation.steered import Example, drawn, examples_of
from tuner.models.control import new_controlnet, new_t2i_adapter
from tuner.models.control_loading import WEIGHTS, trained_with
from tuner.models.latent_diffusion import LatentDiffusion

FAST = ("--examples", 3, "--count", 2, "--steps", 2, "--quiet")
MADE = {"controlnet": new_controlnet, "t2i_adapter": new_t2i_adapter}


@pytest.fixture
def fresh(tiny_base, tmp_path, monkeypatch):
    """`fresh("controlnet")`: the folder of a network that has not been trained."""
    monkeypatch.chdir(tmp_path)

    def made(kind: str) -> str:
        model = LatentDiffusion.load(tiny_base)
        MADE[kind](model.unet, model.scale, seed=0).save_pretrained(tmp_path / kind)
        return kind

    return made


@pytest.fixture
def run(tuner, tiny_base, images, tmp_path, monkeypatch):
    """The folder of a finished run: a ControlNet for gray pictures."""
    monkeypatch.chdir(tmp_path)
    done = tuner("controlnet", "--base", tiny_base, "--images", images, "--condition", "gray", "--out", "runs/it",
                 "--steps", 2, "--samples", 0, "--batch-size", 2, "--learning-rate", 0.05, "--quiet")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    return Path("runs/it")


def found_in(folder: str) -> dict:
    assert "<html" in Path(folder, "report.html").read_text()
    return json.loads(Path(folder, "report.json").read_text())


@pytest.mark.parametrize("kind", MADE)
def test_at_step_0_control_changes_nothing(tuner, fresh, tiny_base, images, kind):
    done = tuner("evaluate", "--base", tiny_base, "--control", fresh(kind), "--condition", "canny", "--images", images,
                 "--no-world", "--out", "out", *FAST)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    report = found_in("out")
    assert (report["suite"], report["settings"]["condition"], report["settings"]["conditions"]) == (
        "control",
        "canny",
        3,
    )
    assert [f["name"] for f in report["figures"]] == ["F1 of canny", "precision of canny", "recall of canny"]
    for figure in report["figures"]:
        assert figure["after"]["value"] == figure["before"]["value"] and figure["change"]["value"] == 0.0
        assert figure["after"]["n"] == 6 and figure["after"]["groups"] == 3
    for row in report["grids"][0]["rows"]:
        pictures = [Image.open(Path("out", name)) for name in row["pictures"]]
        assert len(pictures) == 5 and all(one.size == (32, 32) for one in pictures)
        assert pictures[2].tobytes() == pictures[3].tobytes()
    assert [row[0] for row in report["tables"][0]["rows"]] == [
        "with control", "without control", "the pictures, rebuilt"
    ]  # fmt: skip


def test_scenes_of_the_bundled_world_and_its_judges(fresh, tiny_base):
    """Without --images: scenes drawn anew, the same each time, whose captions the judges know."""
    options = {"base": tiny_base, "control": fresh("controlnet"), "condition": "canny", "world": True, "examples": 4,
               "count": 1, "steps": 2, "other": ["a dog on a red background", "a pizza on a blue one"]}  # fmt: skip
    report = report_of(build(Config, options))
    names = [line.figure.name for line in report.lines]
    assert {"F1 of canny", "subject right", "background right"} <= set(names)
    assert all(line.change.value == 0 for line in report.lines)
    assert {words.split(" on ")[0] for words, _ in report.grids[0].rows} <= {"a dog", "a pizza"}
    again = report_of(build(Config, options))
    assert again.json() == report.json()


def test_a_run_is_judged_with_what_it_was_trained_with(tuner, run):
    shutil.copytree("pictures", "others")
    done = tuner("evaluate", run, "--images", "others", "--no-world", *FAST)
    assert done.exit_code == 0, done.stderr
    report = found_in(str(run / "report"))
    assert [f["name"] for f in report["figures"]] == ["correlation of gray", "absolute error of gray", "RMSE of gray"]
    assert any(f["change"]["value"] != 0 for f in report["figures"])
    assert not [note for note in report["notes"] if "trained on" in note]
    done = tuner("evaluate", run, "--images", "pictures", "--no-world", "--out", "same", *FAST)
    assert done.exit_code == 0, done.stderr
    assert any("These pictures were trained on" in note for note in found_in("same")["notes"])


def test_its_file_and_its_run_say_what_it_draws_after(run, fresh, tmp_path):
    folder = run / "controlnet"
    assert trained_with(folder) == "gray"
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert trained_with(tmp_path / "elsewhere") == "gray"  # it goes with the file
    assert trained_with(Path(fresh("t2i_adapter"))) == ""
    (folder / WEIGHTS).write_bytes(Path("t2i_adapter", WEIGHTS).read_bytes())  # a file from elsewhere says nothing
    assert trained_with(folder) == "gray"
    config = (run / "config.toml").read_text().replace('condition = "gray"', 'condition = "my/edges"')
    (run / "config.toml").write_text(config)
    assert trained_with(folder) == "given"


def test_many_conditions_at_once_are_each_pictures_own(run, tiny_base, images):
    config = build(Config, {"base": tiny_base, "images": images, "examples": 4, "count": 1, "steps": 3})
    bench = Bench("control", Judged("it", tiny_base, control=(run / "controlnet", 1.0)), config, Silent())
    examples = examples_of(bench, "gray")
    together = drawn(bench, examples, steered=True)
    for i, (one, seen) in enumerate(zip(examples, together, strict=True)):
        assert isinstance(one, Example)
        alone = Bench("control", bench.judged, config.model_copy(update={"seed": i}), Silent())
        assert near(drawn(alone, [one], steered=True)[0], seen)
    assert not near(together[0], drawn(bench, examples, steered=False)[0])


def near(one: Image.Image, other: Image.Image) -> bool:
    return max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True)) <= 1


def test_pictures_keep_their_shape_and_some_are_taken_evenly(fresh, tiny_base):
    Path("wide").mkdir()
    for i in range(9):
        Image.new("RGB", (90, 40), (20 * i, 0, 0)).save(f"wide/{i}.png")
    config = build(Config, {"base": tiny_base, "images": "wide", "examples": 3})
    bench = Bench("control", Judged("it", tiny_base, control=(Path(fresh("controlnet")), 1.0)), config, Silent())
    examples = examples_of(bench, "canny")
    assert [one.name for one in examples] == ["0.png", "3.png", "6.png"]
    assert {one.picture.size for one in examples} == {(48, 24)} and examples[0].condition.shape == (24, 48)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--control", "controlnet"], "controlnet does not say what it was trained with; name what it draws after by"),
        (["--control", "given", "--images", "pictures"], "given draws after conditions that were given to it"),
        (["--control", "pictures"], "--control pictures is not a control network"),
        (["--control", "nowhere"], "--control nowhere: there is no such folder"),
        (["--control", "controlnet:much"], "much is not a weight"),
        (["controlnet"], "controlnet is no run.*is named by --control"),
        (["--control", "controlnet", "--condition", "cany"], "did you mean canny"),
        (["--control", "controlnet", "--condition", "canny"], "pictures that were not trained on"),
        (["--control", "controlnet", "--condition", "canny", "--images", "empty"], "--images empty holds no picture"),
        (["--control", "controlnet", "--condition", "canny", "--against", "emoji"], "leave --against out"),
        (["--control", "controlnet", "--suite", "prompts", "--prompt", "a cat"], "judge it by --suite control"),
        (["--suite", "control"], "--suite control judges control networks"),
        (["--control", "controlnet", "--pictures", "pictures"], "name one of them"),
    ],
)
def test_wrong_requests_are_refused_in_a_sentence(tuner, fresh, tiny_base, images, words, sentence):
    import re

    fresh("controlnet")
    Path("empty").mkdir()
    shutil.copytree("controlnet", "given")
    from tuner.adapters.artifact import Artifact

    weights = Artifact.load(Path("given", WEIGHTS))
    Artifact(weights.tensors, {"format": "pt", "tuner.condition": "given"}).save(Path("given", WEIGHTS))
    done = tuner("evaluate", *words, "--base", tiny_base, "--no-world", "--quiet", "--out", "out")
    assert done.exit_code == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 and re.search(sentence, done.stderr), done.stderr
    assert not Path("out").exists()


def test_a_network_of_another_base_is_refused(tuner, fresh, tiny_family, images):
    done = tuner("evaluate", "--base", tiny_family("sd1"), "--control", fresh("controlnet"), "--condition", "canny",
                 "--images", images, "--no-world", "--out", "out", *FAST)  # fmt: skip
    assert done.exit_code == 2 and "does not fit this base" in done.stderr, done.stderr
