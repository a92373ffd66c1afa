"""The words of a base that are to mean what they did, beside what is taken out of it."""

import pytest

from tuner.data.pairs import concepts, pairs_of
from tuner.data.vocabulary import ANY, EACH, LEAST, NEAR, alike, around, free, kin
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.models.tokens import whole_words


def pairs(*names: tuple[str, str], kind: str = "instance"):
    return pairs_of(concepts(*map(list, zip(*names, strict=True))), kind)


def test_a_targets_own_words_are_not_kept_however_they_are_inflected():
    words = [
        "rocket",
        "rockets",
        "rock",
        "cat",
        "cats",
        "grumpy",
        "police",
        "car",
        "cars",
        "carrot",
        "cherry",
        "cherries",
    ]
    assert free(words, pairs(("rocket", "airplane"))) == [word for word in words if not word.startswith("rocket")]
    assert free(words, pairs(("cherry", "car"))) == [word for word in words if not word.startswith("cherr")]
    assert free(words, pairs(("grumpy cat", "cat"), ("police car", "car"))) == [
        word for word in words if word not in ("grumpy", "police")
    ]


def test_of_short_words_plurals_go_along():
    words = ["owl", "owls", "owlet", "bus", "buses", "bush", "dog"]
    assert free(words, pairs(("owl", "dog"), ("bus", "dog"))) == ["owlet", "bush", "dog"]


def test_short_words_of_a_caption_take_no_others_with_them():
    words = ["a", "apple", "of", "office", "the", "theater", "poster", "posters", "old", "olden", "rose"]
    made = pairs(("the old poster of a rose", "a rose left of a robot"), kind="memorised")
    assert free(words, made) == ["a", "apple", "of", "office", "theater", "olden", "rose"]


def test_beside_a_style_are_others_that_have_no_word_of_it():
    made = kin(pairs(("watercolor", "photo"), kind="style"), "style")
    assert len(made) == 46 and not any("watercolor" in text for text in made)
    for name in ("pencil sketch", "pixel art"):
        assert sum(f" {name} of " in text for text in made) == 2, "names of two words, too"
    other = kin(pairs(("pencil drawing", "photo"), kind="style"), "style")
    assert other and not any("pencil" in text or "drawing" in text for text in other)
    assert kin(pairs(("rocket", "airplane")), "instance") == [], "things are beyond number"


@pytest.fixture(scope="module")
def bundled() -> LatentDiffusion:
    return LatentDiffusion.load("emoji")


@pytest.mark.parametrize(
    ("its", "kind", "expected"),
    [
        ([("watercolor", "photo")], "style", {"pencil", "sketch", "mosaic", "comic"}),
        ([("taxi", "car")], "instance", {"car", "ambulance", "bus", "truck"}),
        ([("grumpy cat", "cat")], "instance", {"smirking", "grinning", "weary", "crying"}),
        ([("taxi", "car"), ("grumpy cat", "cat")], "instance", {"ambulance", "bus", "smirking", "weary"}),
    ],
)
def test_words_that_are_read_most_like_targets_are_found(bundled, its, kind, expected):
    made = pairs(*its, kind=kind)
    words = free(whole_words(bundled.tokenizers[0]), made)
    found = alike(bundled, made, words)
    assert len(found) == len(set(found)) <= NEAR and {*found} <= {*words} and expected <= {*found[:26]}


def test_of_many_targets_each_has_words_of_its_own(bundled):
    anchors = {"guitar": "umbrella", "banana": "lemon", "robot": "dog", "rose": "tulip", "rocket": "airplane"}
    made = pairs(*anchors.items())
    words = free(whole_words(bundled.tokenizers[0]), made)
    found = {*alike(bundled, made, words)}
    for name in anchors:
        its = alike(bundled, [pair for pair in made if pair.target_words == name], words)
        assert {*its[:LEAST]} <= found, name
    assert len(around(bundled, made, seed=0)) == ANY + EACH * len(found) > ANY + EACH * NEAR


def test_half_of_the_prompts_have_words_like_the_target(bundled):
    made = pairs(("taxi", "car"))
    words = around(bundled, made, seed=0)
    near = {*alike(bundled, made, free(whole_words(bundled.tokenizers[0]), made))}
    assert len(words) == ANY + EACH * NEAR and around(bundled, made, seed=0) == words != around(bundled, made, seed=1)
    names = [text.replace("photo of a ", "").split(" on a ")[0].split()[1:] for text in words if " on a red " in text]
    likeness = [{*name} <= near for name in names]
    assert all(likeness[len(names) // 2 :]) and sum(likeness[: len(names) // 2]) < len(names) / 4
    assert {len(name) for name in names} == {1, 2}
