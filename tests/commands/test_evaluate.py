"""`tuner evaluate`: what it leaves, what it says, what it refuses."""

import json
import shutil

import pytest
from PIL import Image, ImageFilter

from tuner.bundled import world

FAST = ("--no-world", "--count", 2, "--steps", 2, "--quiet")


@pytest.fixture
def run(tuner, tiny_base, images, tmp_path, monkeypatch):
    """The folder of a finished run."""
    monkeypatch.chdir(tmp_path)
    done = tuner("lora", "--base", tiny_base, "--images", images, "--out", "runs/bear", "--name", "bear", "--steps", 2,
                 "--samples", 0, "--learning-rate", 0.05, "--quiet")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    return "runs/bear"


def scenes(folder, seed, count=8, blur=0.0, words=True):
    folder.mkdir()
    rows = []
    for i, it in enumerate(world.scenes(seed, count, ("cat", "dog", "car"), styles=("plain",))):
        world.draw(it).filter(ImageFilter.GaussianBlur(blur)).save(folder / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "text": world.caption(it)}))
    if words:
        (folder / "metadata.jsonl").write_text("\n".join(rows))
    return str(folder)


def test_a_run_is_judged_by_the_suite_of_its_recipe(tuner, run, tmp_path):
    done = tuner("evaluate", run, *FAST, "--prompt", "{} on a table", "--prompt", "a photo of {}", "--other", "a dog",
                 "--other", "a car")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    report = json.loads((tmp_path / run / "report" / "report.json").read_text())
    assert report["suite"] == "subject"
    names = [figure["name"] for figure in report["figures"]]
    assert names[:3] == ["likeness-judge", "subject recognised", "variety-judge"]
    likeness = report["figures"][0]
    assert likeness["after"]["n"] == 4 and likeness["after"]["groups"] == 2
    assert likeness["before"]["value"] != likeness["after"]["value"]
    assert abs(likeness["change"]["value"] - (likeness["after"]["value"] - likeness["before"]["value"])) < 1e-9
    labels = [row["label"] for row in report["grids"][0]["rows"]]
    assert labels == ["a teddy bear on a table", "a photo of a teddy bear"]  # as its captions call it
    pictures = [tmp_path / run / "report" / name for row in report["grids"][0]["rows"] for name in row["pictures"]]
    assert len(pictures) == 8 and all(Image.open(path).size == (32, 32) for path in pictures)
    assert "report.html" in done.stdout and "recognised" in done.stdout


def test_the_name_of_a_run_will_do_and_a_second_report_gets_its_own_folder(tuner, run, tmp_path):
    for name in ("report", "report-2"):
        assert tuner("evaluate", "bear", *FAST, "--prompt", "a bear", "--other", "a dog").exit_code == 0
        assert (tmp_path / run / name / "report.html").is_file()
    one, other = (json.loads((tmp_path / run / n / "report.json").read_text()) for n in ("report", "report-2"))
    assert one == other  # nothing is drawn from anything but seeds


def test_before_is_the_base_without_the_adapter(tuner, run, tiny_base, tmp_path):
    same = ("--prompt", "a bear", "--other", "a dog")
    adapter = f"{run}/bear.safetensors"
    done = tuner("evaluate", "--base", tiny_base, "--adapter", f"{adapter}:0", "--suite", "subject", "--images",
                 "pictures", *FAST, *same, "--out", "zero")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    figures = json.loads((tmp_path / "zero" / "report.json").read_text())["figures"]
    assert [figure["change"]["value"] for figure in figures if figure["change"]] == [0.0] * 3
    drift = next(figure for figure in figures if figure["name"].startswith("drift of others"))
    assert abs(drift["after"]["value"]) < 1e-6


def test_a_base_against_a_base_by_prompts(tuner, tiny_base, tiny_family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.csv").write_text("prompt,category\na cat,animals\na dog,animals\na car,things\n")
    done = tuner("evaluate", "--base", tiny_base, "--against", tiny_base, "--prompts", "p.csv", *FAST)
    assert done.exit_code == 0, done.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["suite"] == "prompts"
    assert [(f["name"], round(f["after"]["value"], 6), f["after"]["n"]) for f in report["figures"]] == [
        ("drift-judge", 0.0, 6)
    ]


def test_two_sets_of_pictures(tuner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real, soft = scenes(tmp_path / "real", 1), scenes(tmp_path / "soft", 1, blur=3)
    done = tuner("evaluate", "--pictures", soft, "--against", real, "--no-world", "--json", "--out", "one")
    assert done.exit_code == 0, done.stderr
    figures = {f["name"]: f for f in json.loads(done.stdout)["figures"]}
    assert 10 < figures["PSNR"]["after"]["value"] < 40 and figures["PSNR"]["after"]["n"] == 8
    assert figures["KID-judge"]["after"]["against"] == 8
    assert {"SSIM", "precision-judge", "recall-judge"} <= figures.keys()
    assert "FD-judge" not in figures  # of eight pictures it would say nothing
    same = json.loads(
        tuner("evaluate", "--pictures", real, "--against", real, "--no-world", "--json", "--out", "two").stdout
    )
    kid = {f["name"]: f["after"]["value"] for f in same["figures"]}
    assert kid["KID-judge"] < figures["KID-judge"]["after"]["value"]
    assert kid["PSNR"] is None and kid["SSIM"] == 1  # of equal pictures it is infinite, which JSON lacks


def test_reports_are_set_side_by_side(tuner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = scenes(tmp_path / "real", 1)
    for name, blur in (("a", 1), ("b", 4)):
        made = scenes(tmp_path / f"set-{name}", 2, blur=blur)
        assert tuner("evaluate", "--pictures", made, "--against", real, "--no-world", "--out", name).exit_code == 0
    done = tuner("evaluate", "--compare", "a", "--compare", "b/report.json", "--out", "both")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "both" / "compare.html").is_file() and not (tmp_path / "both" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "needs something to judge"),
        (["nowhere"], "nowhere is no run"),
        (["--pictures", "real"], "name their folder by --against"),
        (["--pictures", "empty", "--against", "real"], "--pictures empty holds no picture"),
        (["--pictures", "one", "--against", "real"], "--pictures holds one picture"),
        (["--pictures", "real", "--against", "one"], "--against holds one picture"),
        (["--pictures", "broken", "--against", "real"], r"broken.*mend it or take it out"),
        (["--pictures", "five", "--against", "real", "--paired"], "--paired needs pictures of the same names"),
        (["--pictures", "large", "--against", "real"], "must be of one size"),
        (["--pictures", "silent", "--against", "real", "--suite", "prompts"], "without captions"),
        (["--pictures", "real", "--adapter", "x.safetensors"], "name one of them"),
        (["--base", "emoji", "--suite", "subjects"], "There is no suite subjects; there are"),
        (["--pictures", "real", "--against", "real", "--features", "nowhere"], "no such folder"),
        (["--compare", "real", "--compare", "real"], "report.json"),
    ],
)
def test_wrong_requests_are_refused_in_a_sentence(tuner, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    scenes(tmp_path / "real", 1)
    scenes(tmp_path / "silent", 1, words=False)
    scenes(tmp_path / "one", 1, count=1)
    scenes(tmp_path / "five", 1, count=5)
    (tmp_path / "empty").mkdir()
    shutil.copytree(tmp_path / "real", tmp_path / "broken")
    (tmp_path / "broken" / "3.png").write_bytes(b"no picture")
    (tmp_path / "large").mkdir()
    for i in range(8):
        Image.new("RGB", (80, 64)).save(tmp_path / "large" / f"{i}.png")
    done = tuner("evaluate", *words, "--no-world", "--quiet", "--out", "out")
    assert done.exit_code == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
    import re

    assert re.search(sentence, done.stderr), done.stderr
