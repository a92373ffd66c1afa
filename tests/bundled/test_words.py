"""The captions of the picture world: their phrasings, their words, the names of the pictures."""

import json
from dataclasses import replace

import pytest

from tuner.bundled import emoji, mixture, words, world

CAT = world.Scene("cat", "red")


@pytest.mark.parametrize(
    "change, said",
    [
        ({}, "a cat on a red background"),
        ({"phrasing": 1}, "a photo of a cat on a red background"),
        ({"phrasing": 2}, "a picture of a cat, red background"),
        ({"phrasing": 4, "background": "orange"}, "an orange background with a cat"),
        ({"phrasing": 6}, "a cat"),
        ({"texture": "striped"}, "a cat on a striped red background"),
        ({"sized": "small"}, "a small cat on a red background"),
        ({"count": 2}, "two cats on a red background"),
        ({"count": 3, "subject": "mouse", "phrasing": 3}, "three mice in front of a red background"),
        ({"relation": "left of", "other": "car"}, "a cat left of a car on a red background"),
        (
            {"relation": "left of", "other": "key", "phrasing": 2},
            "a picture of a cat to the left of a key, red background",
        ),
        ({"subject": "apple"}, "a apple on a red background"),
        ({"subject": "apple", "phrasing": 5}, "an apple, red background"),
        ({"subject": "ufo", "phrasing": 6}, "a ufo"),
        ({"subject": "umbrella", "phrasing": 6}, "an umbrella"),
        ({"style": "comic"}, "a comic of a cat on a red background"),
        ({"style": "pixel art", "phrasing": 1}, "a cat, pixel art, red background"),
        ({"style": "mosaic", "phrasing": 3}, "a cat in mosaic style on a red background"),
        ({"style": "pencil sketch", "background": "", "phrasing": 5}, "a cat as a pencil sketch"),
        ({"words": "the old postcard"}, "the old postcard"),
    ],
)  # fmt: skip
def test_captions(change: dict, said: str) -> None:
    assert world.caption(replace(CAT, **change)) == said


def test_each_phrasing_is_another() -> None:
    for style in world.STYLES:
        it = world.in_style(CAT, style)
        said = [world.caption(replace(it, phrasing=i)) for i in range(len(words.PHRASING_SHARE))]
        assert len(set(said)) == len(said)
    assert sum(words.PHRASING_SHARE) == pytest.approx(1)


@pytest.mark.parametrize(
    "one, many",
    [
        ("butterfly", "butterflies"), ("fish", "fishes"), ("police car", "police cars"), ("rose", "roses"),
        ("cherry", "cherries"), ("mouse", "mice"), ("sheep", "sheep"), ("bus", "buses"), ("key", "keys"),
        ("maple leaf", "maple leaves"), ("volcano", "volcanoes"), ("flamingo", "flamingos"), ("church", "churches"),
    ],
)  # fmt: skip
def test_plurals(one: str, many: str) -> None:
    assert words.plural(one) == many


def test_every_word_of_a_mixture_is_in_the_vocabulary() -> None:
    known, longest, bare = set(world.vocabulary()), 0, 0
    for it in mixture.mixture(31, 5000):
        said = world.caption(it).replace(",", "").split()
        assert set(said) <= known
        assert all(word.isascii() and word.isalpha() for word in said)
        longest, bare = max(longest, len(said)), bare + (bool(it.background) and "background" not in said)
    assert longest < 20
    assert 0.05 < bare / 5000 < 0.12


def test_the_table_agrees_with_the_spoken_names() -> None:
    lines = (emoji.folder() / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        point = int(row["file_name"].removesuffix(".png"), 16)
        assert row["text"] == emoji.SPOKEN.get(point, row["unicode"].lower())
    assert len(emoji.table()) == len(rows)


def test_the_known_subjects() -> None:
    assert len(emoji.FIRST) == 44 and len(emoji.KNOWN) == len(set(emoji.KNOWN)) == 130
    assert emoji.KNOWN[: len(emoji.FIRST)] == emoji.FIRST
    for name in emoji.KNOWN:
        assert name in emoji.table() and len(name.split()) <= 2
