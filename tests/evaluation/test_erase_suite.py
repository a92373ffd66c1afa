"""The suite `erase`: what it sees in pictures whose content is known, what it reports of nothing, what it refuses."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.adapters.drawn import adapter, saved
from tuner.bundled import world
from tuner.commands.show import Silent
from tuner.config import build
from tuner.data.pairs import Concept, noted
from tuner.errors import RequestError
from tuner.evaluation.bench import Bench, Judged
from tuner.evaluation.erased import Erased, Sight
from tuner.evaluation.panel import Panel
from tuner.evaluation.prompts import Prompt
from tuner.evaluation.request import Config
from tuner.evaluation.suites.erase import LIKE, NEAR, _fitting, _nearest
from tuner.models.latent_diffusion import LatentDiffusion, recommended
from tuner.sampling.shots import Shot

FAST = ("--count", 1, "--steps", 2, "--quiet")


@pytest.fixture(scope="module")
def panel():
    return Panel.load()


def scenes(name, count=3, style="plain"):
    colours = list(world.COLOURS)
    return [world.draw(world.Scene(name, colours[2 * i], style, grain=i)) for i in range(count)]


def sight(panel, erased, *drawn):
    bench = SimpleNamespace(panel=panel, eyes=panel.networks)
    sets = ({Shot(f"{kind} {i}", i): one for i, one in enumerate(these)} for kind, these in enumerate(drawn))
    return Sight(bench, erased, *sets)


ELSE = [Shot("of no set", i) for i in range(4)]


def test_judges_see_targets_and_what_stands_in_their_place(panel):
    rockets, dogs, roses = (scenes(name) for name in ("rocket", "dog", "rose"))
    looked = sight(panel, Erased([Concept("rocket", "dog")], "instance"), rockets, dogs, roses)
    assert looked.names == {"target": {"rocket": "rocket"}, "anchor": {"dog": "dog"}}
    shown = [rockets[0], dogs[0], roses[0]]
    assert looked.present(shown, ELSE[: len(shown)]).tolist() == [True, False, False]
    assert looked.instead(shown, ELSE[: len(shown)]).tolist() == [False, True, False]
    chance = looked.chance(shown)
    assert chance[0] > 0.8 and chance[1:].max() < 0.1


def test_styles_are_looked_for_as_styles(panel):
    style = next(name for name in panel.trusted("style") if name != "plain")
    looked = sight(panel, Erased([Concept(style, "photo")], "style"), scenes("dog", style=style), scenes("dog"), [])
    shown = [*scenes("rocket", 2, style), *scenes("rocket", 2)]
    assert looked.present(shown, ELSE[: len(shown)]).tolist() == [True, True, False, False]
    assert (
        looked.instead(shown, ELSE[: len(shown)]).tolist() == [False, False, True, True]
        and looked.chance(shown) is None
    )


def test_a_style_that_judges_do_not_know_is_not_the_plain_one(panel):
    """Else what is gone would be seen in every picture without it."""
    style = next(name for name in panel.trusted("style") if name != "plain")
    erased = Erased([Concept("sketch", "photo")], "style")  # the style of its pictures, by another name
    looked = sight(panel, erased, scenes("dog", style=style), scenes("dog"), scenes("rose"))
    assert looked.names == {"target": {}, "anchor": {"photo": "plain"}}
    shown = [*scenes("dog", 2, style), *scenes("dog", 2)]
    assert looked.present(shown, ELSE[: len(shown)]).tolist() == [True, True, False, False]


def test_without_judges_who_know_it_the_nearest_picture_tells(panel):
    """A held-out subject, which judges have never named; its own pictures tell it from others."""
    erased = Erased([Concept("a thing of no name", "dog")], "instance")
    looked = sight(panel, erased, scenes("rocket"), scenes("dog"), scenes("rose"))
    assert looked.names["target"] == {}
    other = [world.draw(world.Scene(name, "white", size=0.7, tilt=5)) for name in ("rocket", "dog", "rose")]
    assert looked.present(other, ELSE[: len(other)]).tolist() == [True, False, False]


def test_any_judge_is_enough_to_see_a_target_and_all_must_see_an_anchor(panel):
    class Doubting:
        """The same pictures, one judge of two says."""

        networks, trusted = panel.networks, panel.trusted

        def judge(self, pictures):
            said = SimpleNamespace(subject="rocket"), SimpleNamespace(subject="dog")
            return [said for _ in pictures]

    looked = sight(Doubting(), Erased([Concept("rocket", "dog")], "instance"), [], [], [])
    assert looked.present([None], ELSE[:1]).tolist() == [True] and looked.instead([None], ELSE[:1]).tolist() == [False]


def test_of_several_each_has_its_own_anchor(panel):
    """A rocket that becomes a rose is not what was asked for where only the pizza was to become one."""
    erased = Erased([Concept("rocket", "dog"), Concept("pizza", "rose")], "instance")
    looked = sight(panel, erased, [], [], [])
    shown, shots = [scenes("dog")[0], scenes("rose")[0]], [Shot("a rocket", 0), Shot("a pizza", 1)]
    assert looked.instead(shown, shots).tolist() == [True, True]
    assert looked.instead(shown, shots[::-1]).tolist() == [False, False]
    unnamed = Erased([Concept("thing one", "dog"), Concept("thing two", "no such name")], "instance")
    bench = SimpleNamespace(panel=panel, eyes=panel.networks)
    drawn = {Shot("a dog", 0): scenes("dog", 2)[1], Shot("a no such name", 0): scenes("rose", 2)[1]}
    looked = Sight(bench, unnamed, {}, drawn, {})  # judges do not know one of them: the nearest picture tells
    shots = [Shot("a thing one", 5), Shot("a thing two", 5)]
    assert looked.instead(shown, shots).all() and not looked.instead(shown, shots[::-1]).any()


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
    for name in ("anchor kept", "neighbours kept", "others kept"):
        assert figures[name]["after"]["value"] == figures[name]["before"]["value"] == 1
    lost = next(one for one in report["tables"] if one["title"] == "Its nearest neighbours")
    assert [row[0] for row in lost["rows"]] and all(row[2]["value"] == 1 for row in lost["rows"])
    assert abs(figures["KID-judge"]["change"]["value"]) < 0.01
    assert figures["drift of others-judge"]["after"]["value"] < 1e-4
    shown = [row["label"] for row in report["grids"][-1]["rows"]]
    assert shown == ["a cat", "a photo of a cat"]  # what names the target is no other thing


def test_without_judges_what_is_lost_is_told_by_what_the_base_drew(tuner, run, tiny_base):
    """An edit that changes every picture: on bases of one's own nobody else could tell."""
    spoilt = adapter(LatentDiffusion.load(tiny_base), 3, scale=2.0, erases=noted([Concept("cat", "dog")], "instance"))
    saved(spoilt, Path("spoilt.safetensors"))
    others = [word for text in ("a house", "a key", "a rose", "a bus") for word in ("--other", text)]
    done = tuner("evaluate", "--base", tiny_base, "--adapter", "spoilt.safetensors", "--suite", "erase", *others,
                 "--no-world", "--out", "out", *FAST)  # fmt: skip
    assert done.exit_code == 0, done.stderr
    figures = {one["name"]: one for one in json.loads(Path("out/report.json").read_text())["figures"]}
    lost = [figures[name] for name in ("neighbours kept", "others kept")]
    assert all(one["before"]["value"] == 1 and one["after"]["value"] < 0.6 for one in lost)


def test_files_that_take_nothing_out_are_refused(tuner, tiny_base, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = tuner(
        "lora", "--base", tiny_base, "--images", images, "--steps", 1, "--samples", 0, "--out", "it", "--quiet"
    )
    assert done.exit_code == 0, done.stderr
    for words in (("it", "--suite", "erase"), ("--base", tiny_base, "--suite", "erase")):
        done = tuner("evaluate", *words, *FAST)
        assert done.exit_code == 2 and "--suite erase" in done.stderr and len(done.stderr.splitlines()) == 1


def test_what_the_base_drew_of_the_same_shot_does_not_count(panel):
    """Else a picture before would show the target because it is itself."""
    erased = Erased([Concept("a thing of no name", "dog")], "instance")
    bench = SimpleNamespace(panel=panel, eyes=panel.networks)
    odd, shots = [*scenes("rocket", 1), *scenes("rose", 2)], [Shot("it", i) for i in range(3)]
    others = {Shot("rocket", i): one for i, one in enumerate(scenes("rocket", 3)[1:])}
    looked = Sight(bench, erased, dict(zip(shots, odd, strict=True)), {}, others)
    assert looked.present(odd, shots).tolist() == [False, True, True]
    assert looked.present(odd, ELSE[:3]).all()


def nearest(concepts, kind="instance", *which):
    """Of what the bundled base knows."""
    bench = Bench("erase", Judged("it", "emoji"), build(Config, {"world": True, "base": "emoji"}), Silent())
    erased, texts = Erased(concepts, kind), recommended("emoji", "evaluate")["other"]
    others = [Prompt(text) for text in texts if not erased.concerns(text, bench.asked(text).subject)]
    return {name: [it.text for it in its] for name, its in _nearest(bench, erased, others, *which).items()}


def test_neighbours_are_what_the_base_reads_alike():
    found = nearest([Concept("grumpy cat", "cat")])
    assert len(found) == 5 and all(name.endswith(" cat") and name != "grumpy cat" for name in found)
    assert all(len(its) == 1 and f"a {name} on" in its[0] for name, its in found.items())
    found = nearest([Concept("taxi", "car"), Concept("grumpy cat", "cat")])
    assert {*nearest([Concept("taxi", "car")]), *nearest([Concept("grumpy cat", "cat")])} == found.keys()
    assert not {"car", "taxi", "cat"} & found.keys()


def test_what_is_most_like_it_comes_after_the_neighbours():
    taxi = [Concept("taxi", "car")]
    first, after = nearest(taxi), nearest(taxi, "instance", NEAR, LIKE)
    assert list(nearest(taxi, "instance", 0, NEAR + LIKE)) == [*first, *after] and len(after) == LIKE
    assert {"truck", "fire truck", "police car"} <= {*first, *after}
    both = [*taxi, Concept("pizza", "hamburger")]
    assert LIKE < len(nearest(both, "instance", NEAR, LIKE).keys() - nearest(both).keys()) <= 2 * LIKE


def test_neighbours_are_judged(panel):
    """Where judges look: else a neighbour that is lost would not count."""
    for target in ("pizza", "grumpy cat", "the old postcard of a lion and a balloon"):
        assert nearest([Concept(target, "dog")]).keys() <= {*panel.trusted("subject")}


def test_neighbours_of_a_caption_are_first_what_it_names():
    found = nearest([Concept("the old postcard of a lion and a balloon", "a cup")], "memorised")
    assert {*list(found)[:2]} == {"lion", "balloon"} and len(found) == 5


def test_neighbours_of_a_style_are_styles(panel):
    found, styles = nearest([Concept("watercolor", "photo")], "style"), panel.trusted("style")
    assert len(found) == 5 and found.keys() <= {*styles} - {"watercolor", "photo", "plain"}
    assert all(len({*its}) == 5 and all(name in text for text in its) for name, its in found.items())
    subjects = {text.split(" of a ")[1].split()[0] for its in found.values() for text in its}
    assert len(subjects) == 10  # no style has all of what is hard to draw


@pytest.mark.parametrize(
    ("text", "target", "anchor"),
    [
        ("{} on a beach", "a teddy bear on a beach", "a dog on a beach"),
        ("a photo of {}", "a photo of a teddy bear", "a photo of a dog"),
        ("a photo of a {}", "a photo of a teddy bear", "a photo of a dog"),
        ("two small {}s", "two small teddy bears", "two small dogs"),
        ("a Teddy Bear on blue", "a teddy bear on blue", "a dog on blue"),
    ],
)
def test_given_prompts_have_a_place_or_name_the_target(text, target, anchor):
    erased = Erased([Concept("teddy bear", "dog")], "instance")
    given = [Prompt(text), Prompt("a cat on blue")]
    assert [[it.text for it in erased.prompts(given, side)] for side in ("target", "anchor")] == [[target], [anchor]]


def test_what_several_files_take_out_is_judged_together(tuner, tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = LatentDiffusion.load(tiny_base)

    def file(name, **facts):
        return saved(adapter(base, len(name), where=r"unet\..*attn2.*to_v", **facts), Path(f"{name}.safetensors"))

    def judged(*files):
        return Erased.of(
            Bench("erase", Judged("it", tiny_base, [(one, 1.0) for one in files]), build(Config, {}), Silent())
        )

    taxi, pizza = Concept("taxi", "car"), Concept("pizza", "hamburger")
    files = [file(it.target, erases=noted([it], "instance")) for it in (taxi, pizza)]
    assert judged(*files) == Erased([taxi, pizza], "instance") and judged(files[0]) == Erased([taxi], "instance")
    assert tuner("merge", *files, "--out", "both.safetensors").exit_code == 0
    assert judged(Path("both.safetensors")) == Erased([taxi, pizza], "instance")
    neon = file("neon", erases=noted([Concept("neon", "photo")], "style"))
    with pytest.raises(RequestError, match="these files take out instance and style"):
        judged(*files, neon)
    assert tuner("merge", files[0], neon, "--out", "kinds.safetensors").exit_code == 0
    for odd in ("{", "[]", '{"kind": "object", "concepts": [["a", "b"]]}', '{"kind": "style", "concepts": []}'):
        with pytest.raises(RequestError, match="does not say what it takes out"):
            judged(file("odd", erases=odd))


def test_prompts_that_name_no_target_ask_for_it_in_other_words():
    erased = Erased([Concept("teddy bear", "dog")], "instance")
    given = [Prompt("a plush grizzly"), Prompt("a {} at noon"), Prompt("a Teddy Bear")]
    assert [it.text for it in erased.aside(given)][len(erased.aside()) :] == ["a plush grizzly"]
    assert [it.text for it in erased.prompts(given)] == ["a teddy bear at noon", "a teddy bear"]


def test_prompts_that_name_no_target_leave_the_usual_ones():
    erased = Erased([Concept("teddy bear", "dog")], "instance")
    assert [it.text for it in erased.prompts([Prompt("a cat")])][:2] == ["a teddy bear", "a photo of a teddy bear"]


def test_a_base_s_own_prompts_are_of_things():
    """Of a style, `a watercolor on a red background` asks for nothing that is drawn."""
    own = recommended("emoji", "evaluate")["prompt"]
    bench = SimpleNamespace(
        config=SimpleNamespace(prompt=[*own, "a {} of a cat"]), judged=SimpleNamespace(base="emoji")
    )
    assert _fitting(bench, Erased([], "instance")) == [*own, "a {} of a cat"]
    assert _fitting(bench, Erased([], "style")) == _fitting(bench, Erased([], "memorised")) == ["a {} of a cat"]
