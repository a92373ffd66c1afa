"""The suite `erase`: what it sees in pictures whose content is known, what it reports of nothing, what it refuses."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tuner.bundled import world
from tuner.data.pairs import Concept
from tuner.evaluation.erased import Erased, Sight
from tuner.evaluation.panel import Panel
from tuner.evaluation.suites.erase import _fitting, _nearest
from tuner.models.latent_diffusion import recommended

FAST = ("--count", 1, "--steps", 2, "--quiet")


@pytest.fixture(scope="module")
def panel():
    return Panel.load()


def scenes(name, count=3, style="plain"):
    colours = list(world.COLOURS)
    return [world.draw(world.Scene(name, colours[2 * i], style, grain=i)) for i in range(count)]


def sight(panel, erased, *drawn):
    bench = SimpleNamespace(panel=panel, eyes=panel.networks)
    return Sight(bench, erased, *drawn)


def test_judges_see_targets_and_what_stands_in_their_place(panel):
    rockets, dogs, roses = (scenes(name) for name in ("rocket", "dog", "rose"))
    looked = sight(panel, Erased([Concept("rocket", "dog")], "instance"), rockets, dogs, roses)
    assert looked.names == {"target": ["rocket"], "anchor": ["dog"]}
    shown = [rockets[0], dogs[0], roses[0]]
    assert looked.present(shown).tolist() == [True, False, False]
    assert looked.instead(shown).tolist() == [False, True, False]
    chance = looked.chance(shown)
    assert chance[0] > 0.8 and chance[1:].max() < 0.1


def test_styles_are_looked_for_as_styles(panel):
    style = next(name for name in panel.trusted("style") if name != "plain")
    looked = sight(panel, Erased([Concept(style, "photo")], "style"), scenes("dog", style=style), scenes("dog"), [])
    shown = [*scenes("rocket", 2, style), *scenes("rocket", 2)]
    assert looked.present(shown).tolist() == [True, True, False, False]
    assert looked.instead(shown).tolist() == [False, False, True, True] and looked.chance(shown) is None


def test_without_judges_who_know_it_the_nearest_picture_tells(panel):
    """A held-out subject, which judges have never named; its own pictures tell it from others."""
    erased = Erased([Concept("a thing of no name", "dog")], "instance")
    looked = sight(panel, erased, scenes("rocket"), scenes("dog"), scenes("rose"))
    assert looked.names["target"] == []
    other = [world.draw(world.Scene(name, "white", size=0.7, tilt=5)) for name in ("rocket", "dog", "rose")]
    assert looked.present(other).tolist() == [True, False, False]


def test_any_judge_is_enough_to_see_a_target_and_all_must_see_an_anchor(panel):
    class Doubting:
        """The same pictures, one judge of two says."""

        networks, trusted = panel.networks, panel.trusted

        def judge(self, pictures):
            said = SimpleNamespace(subject="rocket"), SimpleNamespace(subject="dog")
            return [said for _ in pictures]

    looked = sight(Doubting(), Erased([Concept("rocket", "dog")], "instance"), [], [], [])
    assert looked.present([None]).tolist() == [True] and looked.instead([None]).tolist() == [False]


@pytest.fixture
def run(tuner, tiny_base, tmp_path, monkeypatch):
    """The folder of a run that changes nothing: no step of a method without a solution."""
    monkeypatch.chdir(tmp_path)
    done = tuner("ablate", "--base", tiny_base, "--target", "teddy bear", "--anchor", "dog", "--method", "model",
                 "--steps", 1, "--learning-rate", 1e-7, "--samples", 0, "--force", "--anchor-images", 1, "--quiet",
                 "--out", "runs/it")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    return Path("runs/it")


def test_what_changes_nothing_takes_nothing_out(tuner, run):
    done = tuner("evaluate", run, "--other", "a cat", "--other", "a photo of a cat", "--other", "a teddy bear on red",
                 "--no-world", *FAST)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    report = json.loads((run / "report" / "report.json").read_text())
    figures = {one["name"]: one for one in report["figures"]}
    assert report["suite"] == "erase" and "Taken out: teddy bear -> dog (instance)." in report["notes"]
    for name in ("target present", "target present otherwise", "anchor instead"):
        assert figures[name]["change"]["value"] == 0 and figures[name]["before"]["value"] is not None
    assert figures["target present"]["before"]["value"] == 1  # nearest to itself
    assert figures["drift of others-judge"]["after"]["value"] < 1e-4
    shown = [row["label"] for row in report["grids"][-1]["rows"]]
    assert shown == ["a cat", "a photo of a cat"]  # what names the target is no other thing


def test_files_that_take_nothing_out_are_refused(tuner, tiny_base, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = tuner(
        "lora", "--base", tiny_base, "--images", images, "--steps", 1, "--samples", 0, "--out", "it", "--quiet"
    )
    assert done.exit_code == 0, done.stderr
    for words in (("it", "--suite", "erase"), ("--base", tiny_base, "--suite", "erase")):
        done = tuner("evaluate", *words, *FAST)
        assert done.exit_code == 2 and "--suite erase" in done.stderr and len(done.stderr.splitlines()) == 1


def test_neighbours_are_what_is_drawn_alike(panel):
    names = ["rose", "dog", "rocket", "pizza", "robot", "car", "banana"]
    others, target = SimpleNamespace(before=[scenes(name, 1)[0] for name in names], prompts=names), scenes("dog", 3)
    found = _nearest(SimpleNamespace(eyes=panel.networks), SimpleNamespace(before=target), others)
    assert found[0] == "dog" and len(found) == 5 and np.unique(found).size == 5


def test_a_base_s_own_prompts_are_of_things():
    """Of a style, `a watercolor on a red background` asks for nothing that is drawn."""
    own = recommended("emoji", "evaluate")["prompt"]
    bench = SimpleNamespace(
        config=SimpleNamespace(prompt=[*own, "a {} of a cat"]), judged=SimpleNamespace(base="emoji")
    )
    assert _fitting(bench, Erased([], "instance")) == [*own, "a {} of a cat"]
    assert _fitting(bench, Erased([], "style")) == _fitting(bench, Erased([], "memorised")) == ["a {} of a cat"]
