"""`tuner evaluate --suite merge`: what a merged adapter still holds of its concepts, and what is in the one figure."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.adapters.drawn import adapter, saved
from tuner.bundled import world
from tuner.commands.show import Silent
from tuner.config import build
from tuner.evaluation.bench import Bench, Judged
from tuner.evaluation.concepts import beside, concepts_of, shows
from tuner.evaluation.harmonic import harmonic
from tuner.evaluation.plan import OTHER, Drawn, Plan
from tuner.evaluation.request import Config
from tuner.evaluation.statistics import Figure
from tuner.evaluation.suites.merge import reported
from tuner.models.latent_diffusion import LatentDiffusion

FAST = ("--count", 2, "--steps", 2, "--quiet", "--prompt", "{} on a red background", "--prompt", "a photo of {}",
        "--other", "a dog on a blue background", "--other", "a cat on a white background", "--out")  # fmt: skip
SEEN = ("a teddy bear=bears", "a fox=foxes")


def scenes(folder: Path, subjects: tuple[str, ...], style: str = "plain", count: int = 6) -> None:
    folder.mkdir()
    rows = []
    for i, it in enumerate(world.scenes(5, count, subjects, styles=("plain",))):
        it = world.in_style(it, style)
        world.draw(it).save(folder / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "text": world.caption(it)}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Two subjects and a style."""
    monkeypatch.chdir(tmp_path)
    scenes(tmp_path / "bears", ("teddy bear",))
    scenes(tmp_path / "foxes", ("fox",))
    scenes(tmp_path / "neon", ("dog", "cat", "car"), "neon")
    return tmp_path


@pytest.fixture
def merged(here, tuner, tiny_base) -> str:
    """A merge of two LoRA files."""
    base = LatentDiffusion.load(tiny_base)
    files = [saved(adapter(base, seed, where=r"unet\..*attn.*"), here / f"{seed}.safetensors") for seed in (1, 2)]
    done = tuner("merge", *files, "--out", "merged.safetensors")
    assert done.exit_code == 0, done.stderr
    return "merged.safetensors"


def asked(*words: object) -> list[object]:
    return [*(part for text in SEEN for part in ("--concept", text)), "--style", "a neon=neon", *words]


def figures(folder: str = "out") -> dict[str, dict]:
    return {one["name"]: one for one in json.loads(Path(folder, "report.json").read_text())["figures"]}


def test_a_merge_at_weight_0_changes_nothing(tuner, merged, tiny_base):
    done = tuner("evaluate", "--base", tiny_base, "--adapter", f"{merged}:0", *asked(), "--world", *FAST, "out")
    assert done.exit_code == 0, done.stderr
    report = json.loads(Path("out/report.json").read_text())
    found = figures()
    assert report["suite"] == "merge"  # what names concepts is judged by it
    assert next(iter(found)) == "harmonic mean" and found["drift of others-judge"]["after"]["value"] == pytest.approx(0)
    assert all(one["change"]["value"] == 0 for one in found.values() if one["change"])
    pairs = {"a teddy bear + a fox", "a neon + a teddy bear", "a neon + a fox"}
    alone = {f"{name}: recognised" for name in ("a teddy bear", "a fox", "a neon")}
    assert pairs | alone | {"others kept", "a fox: background right", "others: subject right"} <= set(found)
    assert found["a fox: recognised"]["after"]["n"] == 4 and found["a fox: recognised"]["after"]["groups"] == 2
    labels = {grid["title"]: [row["label"] for row in grid["rows"]] for grid in report["grids"]}
    assert labels["a neon"] == ["a neon of a dog on a blue background", "a neon of a cat on a white background"]
    assert labels["a teddy bear + a fox"] == ["a teddy bear left of a fox on a red background",
                                              "a photo of a teddy bear right of a fox"]  # fmt: skip
    assert labels["a neon + a fox"] == ["a neon of a fox on a red background"]
    table = report["tables"][0]
    assert [row[0] for row in table["rows"] if row[3]] == ["a teddy bear", "a fox", "a neon", "others"]
    mean = [row[2]["value"] for row in table["rows"] if row[3]]
    assert found["harmonic mean"]["after"]["value"] == (len(mean) / sum(1 / x for x in mean) if min(mean) else 0)


def test_at_weight_1_it_does_and_reports_stand_side_by_side(tuner, merged, tiny_base):
    call = ("evaluate", "--base", tiny_base, *asked(), "--no-world", *FAST)
    assert tuner(*call, "one", "--adapter", merged).exit_code == 0
    done = tuner(*call, "other", "--adapter", merged, "--adapter", "1.safetensors:0.5", "--compare", "one")
    assert done.exit_code == 0, done.stderr
    assert figures("one")["drift of others-judge"]["after"]["value"] > 0
    assert figures("one").keys() == figures("other").keys()
    assert "others: subject right" not in figures("one")  # nobody is asked, but what is nearest tells
    assert "nearest is what the base draws" in figures("one")["others kept"]["about"]
    told = json.loads(Path("other/compare.json").read_text())
    assert [row["name"] for row in told["figures"]] == list(figures("one"))


def bench(tiny_base: str, **more: object) -> Bench:
    given = {"concept": list(SEEN), "style": ["a neon=neon"], "world": True, "other": ["a dog on a blue background"],
             "prompt": ["{} on a red background"], "count": 2, **more}  # fmt: skip
    return Bench("merge", Judged("it", tiny_base), build(Config, given), Silent())


def test_real_scenes_are_held_and_real_other_things_are_not(here, tiny_base):
    """What is drawn is taken from the world itself, so that all of it must come out."""
    it = bench(tiny_base, other=[f"a {name} on a blue background" for name in ("dog", "rocket", "car", "pizza")])
    plan = Plan.of(it, concepts_of(it))

    def picture(text: str) -> Image.Image:
        want = it.asked(text)
        first, way, second = want.relation or (want.subject, "", "")
        made = world.Scene(first, want.background or "gray", relation=way, other=second)
        return world.draw(world.in_style(made, want.style or "plain"))

    def drawn(instead: str = "") -> Drawn:
        """What is asked for, or one thing of all that names a concept."""
        others = plan.prompts[OTHER]
        return plan.drawn(it, lambda shots: [
            picture(instead if instead and shot.prompt not in others else shot.prompt) for shot in shots
        ])  # fmt: skip

    found = {line.figure.name: line for line in reported(it, plan, drawn(), drawn("a dog")).lines}
    for name in ("a teddy bear: recognised", "a fox: recognised", "a neon: recognised", "a teddy bear + a fox",
                 "others kept", "harmonic mean"):  # fmt: skip
        assert found[name].figure.value == 1, name
    for name in ("a teddy bear: recognised", "a fox: recognised", "a neon: recognised", "a teddy bear + a fox"):
        assert found[name].before is not None and found[name].before.value == 0, name
    assert found["drift of others-judge"].figure.value == pytest.approx(0)
    leak = dict(drawn())
    leak[OTHER] = [picture("a fox on a blue background") for _ in leak[OTHER]]
    found = {line.figure.name: line for line in reported(it, plan, leak, drawn("a dog")).lines}
    assert found["others kept"].figure.value == found["harmonic mean"].figure.value == 0


def test_two_that_no_judge_knows_by_name_are_looked_for_in_halves(here, tiny_base):
    """Words that judges do not know: each subject must be recognised in a half of its own."""
    it = bench(tiny_base, concept=["a <bear>=bears", "a <fox>=foxes"], style=[])
    one, other = concepts_of(it)
    things = [world.draw(world.Scene(name, "blue")) for name in ("dog", "cat", "car")]
    assert Plan.of(it, (one, other)).prompts[one, other] == ["a <bear> and a <fox> on a red background"]

    def picture(first: str, way: str, second: str) -> Image.Image:
        return world.draw(world.Scene(first, "red", relation=way, other=second))

    both = [picture("teddy bear", way, "fox") for way in world.RELATIONS]
    not_both = [picture("teddy bear", "left of", "dog"), picture("fox", "above", "dog"), things[0],
                picture("fox", "left of", "fox")]  # fmt: skip
    pair = [(one, [*things, *other.pictures]), (other, [*things, *one.pictures])]
    assert beside(it, ["a <bear> and a <fox>"] * 8, [*both, *not_both], pair).tolist() == [True] * 4 + [False] * 4


def test_a_style_is_told_whatever_it_shows(here, tiny_base):
    it = bench(tiny_base)
    neon = concepts_of(it)[-1]
    assert (neon.name, neon.words, neon.style) == ("a neon", "a neon of {}", True)
    scenes_ = list(world.scenes(9, 24, ("rose", "fox", "pizza"), styles=("plain",)))
    plain = [world.draw(one) for one in world.scenes(8, 24, ("dog", "cat", "tree"), styles=("plain",))]
    others = [world.draw(one) for one in scenes_]
    assert shows(it, neon, others, plain).mean() <= 0.05
    assert shows(it, neon, [world.draw(world.in_style(one, "neon")) for one in scenes_], plain).mean() >= 0.95


def test_words_come_from_captions_where_none_are_given(here, tiny_base):
    found = concepts_of(bench(tiny_base, concept=["bears"], style=["{} in neon style=neon"]))
    assert [(one.words, one.name) for one in found] == [("a teddy bear", "a teddy bear"),
                                                        ("{} in neon style", "in neon style")]  # fmt: skip
    assert found[1].of("a dog") == "a dog in neon style"


def share(value: float, low: float, high: float) -> Figure:
    return Figure("it", value, 10, low, high, unit="share")


def test_the_harmonic_mean_and_its_interval():
    one, other = share(0.5, 0.4, 0.6), share(1.0, 0.9, 1.0)
    found = harmonic([one, other], "mean")
    assert (found.value, found.n) == (pytest.approx(2 / 3), 20)
    apart = math.hypot(2 / 3 - 2 / (1 / 0.4 + 1), 2 / 3 - 2 / (2 + 1 / 0.9))
    assert found.low == pytest.approx(2 / 3 - apart) and found.high == pytest.approx(2 / (1 / 0.6 + 1))
    assert (harmonic([one], "mean").low, harmonic([one], "mean").high) == (pytest.approx(0.4), pytest.approx(0.6))
    nothing = harmonic([share(0, 0, 0.2), share(0, 0, 0.2)], "mean")
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, pytest.approx(0.2))
    unknown = harmonic([one, Figure("it", 0.5, 4)], "mean")
    assert unknown.low is None and unknown.warning


def test_its_interval_holds_as_often_as_it_says():
    """Of two shares of 40 pictures each, drawn again and again."""
    from tuner.evaluation.statistics import share as measured

    rng, truth, hits = np.random.default_rng(0), 2 / (1 / 0.7 + 1 / 0.9), 0
    for _ in range(400):
        found = harmonic([measured(rng.random(40) < p, "it") for p in (0.7, 0.9)], "mean")
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / 400 <= 0.99


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--suite", "merge"], "name each by --concept TEXT=DIR"),
        (["--concept", "a fox"], "--concept a fox names no folder; write it as --concept TEXT=DIR"),
        (["--concept", "a fox=nowhere"], "--concept nowhere: there is no such folder"),
        (["--concept", "a fox=foxes", "--concept", "a fox=bears"], "a fox is named twice"),
        (["--concept", "mute"], "The captions in mute do not say what it is called; say so by --concept TEXT=mute"),
        (["--concept", "{} of a fox=foxes"], "stands in a style's words"),
        (["--concept", "a fox=foxes", "--suite", "subject"], "leave --suite out, or them"),
        (["--concept", "a fox=foxes", "--prompt", "a dog"], "None of the prompts has {} in it"),
        (["--concept", "a fox=foxes", "--against", "bears"], "--against takes a base here"),
    ],
)
def test_wrong_requests_are_refused_in_a_sentence(tuner, here, tiny_base, words, sentence):
    from tuner.adapters.embeddings import Embedding
    from tuner.models.words import beginning

    model = LatentDiffusion.load(tiny_base)
    (here / "mute").mkdir()
    world.draw(world.Scene("fox", "red")).save(here / "mute" / "1.png")
    Embedding.of(model, beginning(model, "<fox>", 1, "dog", 0), {}).write(here, "word", model.unet.dtype)
    done = tuner("evaluate", "--base", tiny_base, "--adapter", "word.safetensors", *words, "--no-world", "--quiet",
                 "--out", "out")  # fmt: skip
    assert done.exit_code == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 and re.search(sentence, done.stderr), done.stderr
    assert not Path("out").exists()


def test_without_anything_to_leave_out_there_is_no_before(tuner, here, tiny_base):
    done = tuner("evaluate", "--base", tiny_base, *asked(), *FAST, "out")
    assert done.exit_code == 2 and "name the merged file by --adapter" in done.stderr
