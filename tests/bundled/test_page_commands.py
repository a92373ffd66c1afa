"""The makers' commands that make pages: whole, on the smallest base, and again from the runs that are there."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tuner.bundled.__main__ import app
from tuner.bundled.attacks import ATTACKS
from tuner.bundled.erasing import CASES, OURS, Case, of_ablation
from tuner.bundled.steering import NETWORKS, WEIGHTS
from tuner.bundled.together import Everything
from tuner.bundled.variants import VARIANTS
from tuner.config import write_toml

pytestmark = pytest.mark.slow


def made(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def rows(page: Path, first: str) -> dict[str, list[str]]:
    """The table whose head begins with `first`: by the first cell, the others."""
    lines = page.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    table = [line.strip("| ").split(" | ") for line in lines[start + 2 :]]
    return {row[0]: row[1:] for row in table[: next(i for i, row in enumerate(table) if row == [""])]}


@pytest.mark.parametrize(("command", "name"), [("lora-figures", "lora"), ("token-figures", "textual-inversion")])
def test_subjects_are_learned_and_judged_and_not_learned_again(tiny_base, tmp_path, command, name):
    words = (command, "--base", tiny_base, "--subject", "fox", "--steps", 2, "--count", 2, "--out", tmp_path,
             "--runs", tmp_path / "runs")  # fmt: skip
    said = made(*words)
    table = rows(tmp_path / f"{name}.md", "subject")
    assert list(table) == ["fox", "mean"] and table["fox"][:3] == table["mean"][:3]
    assert all(" → " in cell for cell in table["fox"][:3])
    assert f"`python -m tuner.bundled {command}` made this page." in (tmp_path / f"{name}.md").read_text()
    assert str(tmp_path) not in (tmp_path / f"{name}.md").read_text()
    sheet = Image.open(tmp_path / f"{name}.png")
    assert sheet.width > 4 * 96 and sheet.height > 2 * 96  # two rows a subject, two pictures before and two after
    assert "is finished" not in said
    again = made(*words)
    assert again.count("is finished; its results are there.") == 1
    assert rows(tmp_path / f"{name}.md", "subject") == table
    if name == "textual-inversion":
        kept, total = table["fox"][-2].split(" of ")
        assert kept == total and table["fox"][-3] == "dog"


def test_control_networks_are_trained_and_judged_and_drawn_with_at_once(tuner, tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("control-figures", "--base", tiny_base, "--scenes", 6, "--examples", 2, "--count", 2, "--steps", 2,
             "--out", "docs", "--work", "work", "--runs", "runs")  # fmt: skip
    made(*words)
    page = Path("docs/controlnet.md")
    lines = page.read_text()
    found = rows(page, "drawn with")
    judged = [f"{name}, weight {weight:g}" for name in NETWORKS for weight in WEIGHTS]
    assert list(found) == ["no control", *judged, "unseen scenes, rebuilt"] and "F1 of canny" in lines
    assert all(row[-1].endswith(" MB") for row in rows(page, "network").values())
    assert sum("LoRA + token + ControlNet" in line for line in lines.splitlines()) == 1
    assert Image.open("docs/controlnet.png").height > 14 * 96
    assert made(*words).count("is finished; its results are there.") == 4
    assert page.read_text() == lines

    everything = Everything.load(tiny_base, Path("work/controlnet/controlnet"), Path("runs"), 2, 2)
    first = everything.examples[0]
    first.shown.save("edges.png")
    done = tuner("generate", first.caption, "--base", tiny_base, "--adapter", "runs/teddy_bear/teddy_bear.safetensors",
                 "--adapter", "runs/token_fox/fox.safetensors", "--control", "work/controlnet/controlnet",
                 "--control-image", "edges.png", "--out", "one", "--quiet")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    one, all_three = Image.open("one/0000.png"), everything.drawn(True, True, True)[0]
    apart = [torch.frombuffer(bytearray(p.convert("RGB").tobytes()), dtype=torch.uint8).int() for p in (one, all_three)]
    assert (apart[0] - apart[1]).abs().max() <= 1  # a batch of one and of four round otherwise


@pytest.fixture
def quick_base(tiny_base, tmp_path, monkeypatch) -> str:
    """The tiny base, which says of itself that it is to be judged by few prompts in two steps."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_base, "quick")
    prompts = {"prompt": [f"{{}} on a {colour} background" for colour in ("red", "blue")],
               "other": [f"a {name} on a green background" for name in ("dog", "car", "key")]}  # fmt: skip
    Path("quick/training.toml").write_text(f"[evaluate]\nsteps = 2\n{write_toml(prompts)}")
    return "quick"


MERGES = ("average", "exact", "svd", "ties", "dare", "fusion", "fusion-retain")


def test_two_subjects_and_a_style_are_merged_by_every_method(quick_base, tmp_path):
    words = ("merge-figures", "--base", quick_base, "--steps", 2, "--count", 1, "--out", "docs", "--runs", "runs")
    made(*words)
    page = Path("docs/merge.md")
    found = rows(page, "")
    assert list(found) == ["the base", "teddy_bear alone", "fox alone", "foggy alone", *MERGES]
    assert all(len(row) == 10 and row[-1].endswith(" MB") for name, row in found.items() if name != "the base")
    sizes = {name: (Path("runs/merge") / f"{name}.safetensors").stat().st_size for name in MERGES}
    assert sizes["svd"] < sizes["exact"] and abs(sizes["exact"] - sizes["fusion"]) < 100  # the headers' words differ
    text = page.read_text()
    assert "harmonic mean is of the 3 concepts alone and of others kept" in text and str(tmp_path) not in text
    assert "- svd: Truncated to rank 16, it misses " in text and "- fusion: On its own prompts" in text
    assert "- fusion-retain: On its own prompts" in text
    sheet = Image.open("docs/merge.png")
    assert sheet.width > 7 * 192 and sheet.height > 11 * 192  # three alone, three pairs, others; the base and ten more


def test_the_base_is_distilled_twice_and_judged_by_its_steps(quick_base, tmp_path):
    words = ("few-step-figures", "--base", quick_base, "--scenes", 6, "--steps", 2, "--count", 9, "--out", "docs",
             "--work", "work", "--runs", "runs")  # fmt: skip
    made(*words)
    page = Path("docs/distill-lcm.md")
    found = rows(page, "drawn by")
    steps = ("1 step", "2 steps", "4 steps", "8 steps")
    assert list(found) == [*(f"LCM of 6 scenes, {n}" for n in steps), *(f"LCM of prompts alone, {n}" for n in steps),
                           *(f"the base, {n}" for n in (*steps, "25 steps"))]  # fmt: skip
    assert len({len(row) for row in found.values()}) == 1
    text = page.read_text()
    assert "9 pictures a row, 3 of each of 3 prompts" in text and str(tmp_path) not in text
    costs = rows(page, "distilled on")
    assert list(costs) == ["6 scenes", "prompts alone"]
    assert all(float(row[3].removesuffix(" s")) > float(row[2].removesuffix(" s")) for row in costs.values())
    assert list(rows(page, "tried")) == ["as it is", *VARIANTS]
    beside = rows(page, "beside")
    assert list(beside) == ["nothing", "a LoRA of a teddy bear", "grumpy cat taken out"]
    assert page.read_text().count("| nothing |") == 2
    assert all("%" in cell for row in beside.values() for cell in row[1:])
    sheet = Image.open("docs/distill-lcm.png")
    assert sheet.width >= 2 * 340 and sheet.height > 2 * 230 + 9 * 84  # charts above, rows of pictures below


def test_targets_are_taken_out_by_methods_and_not_again(quick_base, tmp_path):
    words = ("ablation-figures", "--base", quick_base, "--target", "grumpy cat", "--target", "neon", "--method",
             "default", "--method", "uce", "--steps", 2, "--count", 10, "--out", "docs", "--runs", "runs")  # fmt: skip
    said = made(*words)
    page = Path("docs/ablation.md")
    found, each = rows(page, "method"), page.read_text()
    assert list(found) == ["default", "uce"] and all(" to " in row[-3] for row in found.values())
    assert found["default"][-2] == "" and " to " in found["uce"][-2]
    assert sum(line.startswith("| grumpy cat → cat |") for line in each.splitlines()) == 2
    assert sum(line.startswith("| neon → photo |") for line in each.splitlines()) == 2 and str(tmp_path) not in each
    assert Image.open("docs/ablation.png").height > 6 * 64  # before and two methods, of two targets
    shutil.rmtree("runs/neon_uce")
    assert "is finished" not in said and "step 2/2" not in made(*words)  # told by what is kept
    assert page.read_text() == each
    Path("docs/ablation/grumpy-cat_uce.json").unlink()  # measured again, from the run that is there
    assert made(*words).count("is finished; its results are there.") == 1 and page.read_text() == each

    both = Case("grumpy cat", "cat", beside=(("taxi", "car"),))
    of_ablation(quick_base, CASES[:1], [both], {OURS: {}}, 10, Path("two"), Path("runs"), 2)
    assert list(rows(Path("two/ablation.md"), f"targets at once, {OURS}")) == ["1, in the mean", "2"]
    assert Path("runs/2-targets_default/report/report.json").is_file()


def test_what_was_taken_out_is_attacked_beside_a_base_that_never_knew_it(quick_base, tmp_path):
    Path("quick/training.toml").write_text(
        "[textual-inversion]\nsteps = 2\n[ablate]\nsteps = 2\n[distill-lcm]\nsteps = 2\n"
    )
    words = ("attack-figures", "--base", quick_base, "--subject", "koala", "--steps", 1, "--count", 2, "--out", "docs",
             "--work", "work")  # fmt: skip
    made(*words)
    page = Path("docs/attacks.md")
    found = rows(page, "attack")
    assert list(found) == list(ATTACKS) and all(row[0].endswith("%") for row in found.values())
    text = page.read_text()
    assert str(tmp_path) not in text
    assert made(*words).count("Drawing") == 0 and page.read_text() == text
