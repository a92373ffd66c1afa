"""The training draw of the picture world: what it draws, what it never draws, and that a caption keeps its word."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tuner.bundled import emoji, folders, mixture, world

MANY = list(mixture.mixture(21, 5000))
NEW = emoji.KNOWN[len(emoji.FIRST) :]


def mask(it: world.Scene, part: world.Part) -> np.ndarray:
    """Where one part alone is: bool (128, 128)."""
    alone = world.Scene(part.name, "", "plain", part.size, part.place, part.tilt, part.mirror)
    on = [np.int16(world.draw(replace(alone, background=name), 128)) for name in ("black", "white")]
    return np.abs(on[0] - on[1]).max(-1) < 128  # what shows the background differs by more


def centre(shape: np.ndarray) -> np.ndarray:
    """x, y as shares of the canvas."""
    return np.argwhere(shape).mean(0)[::-1] / len(shape)


def blobs(shape: np.ndarray) -> int:
    """How many connected regions of at least twenty pixels there are."""
    left, found = {tuple(at) for at in np.argwhere(shape)}, 0
    while left:
        todo, seen = [left.pop()], 1
        while todo:
            y, x = todo.pop()
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            todo += near
            seen += len(near)
        found += seen >= 20
    return found


def test_a_seed_means_the_same_mixture() -> None:
    assert (
        list(mixture.mixture(21, 30)) == MANY[:30] == [mixture.mixed(np.random.default_rng((21, i))) for i in range(30)]
    )
    assert list(mixture.mixture(22, 30)) != MANY[:30]


def test_the_kinds_have_their_shares() -> None:
    kinds = Counter(map(world.kind, MANY))
    for name, share in {**mixture.KINDS, "single": 1 - sum(mixture.KINDS.values())}.items():
        assert kinds[name] / len(MANY) == pytest.approx(share, abs=0.02)
    single = [it for it in MANY if world.kind(it) == "single" and it.background]
    assert sum(bool(it.texture) for it in single) / len(single) == pytest.approx(0.2, abs=0.03)
    subjects = Counter(it.subject for it in MANY)
    assert set(subjects) == set(emoji.KNOWN)
    styles = Counter(it.style for it in MANY)
    assert set(styles) == set(world.STYLES) and styles["plain"] > len(MANY) / 2
    assert sum(world.STYLE_SHARE) == pytest.approx(1) and len(world.STYLE_SHARE) == len(world.STYLES)


def test_the_harder_draw_has_more_of_what_is_slow_to_learn_and_of_all_else_some() -> None:
    found = list(mixture.harder(21, 1000))
    assert found == list(mixture.harder(21, 1000)) and found[:10] == list(mixture.harder(21, 10))
    shares = [Counter(map(world.kind, these)) for these in (MANY, found)]
    usual, more = (counts["related"] / counts.total() for counts in shares)
    assert more > 1.5 * usual and shares[1].keys() == shares[0].keys()
    assert 0.45 < np.mean([mixture.slow(it) for it in found]) < 0.65
    assert {it.style for it in found} == set(world.STYLES) and set(found) <= set(mixture.mixture(21, 2500))


def test_what_is_withheld_is_never_drawn() -> None:
    pairs = set(mixture.unseen())
    for it in MANY:
        for name in filter(None, (it.subject, it.other)):
            assert not {(name, it.background), (name, it.style)} & pairs
            assert not mixture.withheld(name, it.background, it.style)


def test_what_is_withheld() -> None:
    pairs = mixture.unseen()
    colours = [(name, what) for name, what in pairs if what in world.COLOURS]
    assert len(colours) / (len(NEW) * len(world.COLOURS)) == pytest.approx(0.08, abs=0.02)
    styled = len(pairs) - len(colours)
    assert styled / (len(NEW) * (len(world.STYLES) - 1)) == pytest.approx(0.08, abs=0.04)
    assert max(Counter(name for name, _ in pairs).values()) <= 5
    assert {name for name, _ in pairs} <= set(NEW)
    assert all(mixture.withheld(name, what, "plain") for name, what in colours)
    assert not any(mixture.withheld(name, "red", "neon") for name in emoji.FIRST + emoji.HELD_OUT)


def test_a_relation_is_true_of_the_picture() -> None:
    related = [it for it in MANY if world.kind(it) == "related"][:60]
    assert {it.relation for it in related} == set(world.RELATIONS)
    for it in related:
        assert it.subject != it.other
        shapes = [mask(it, part) for part in world.parts(it)]
        assert not (shapes[0] & shapes[1]).any()
        axis = int(it.relation in ("above", "below"))
        first, second = (centre(shape)[axis] for shape in shapes)
        if it.relation in ("right of", "below"):
            first, second = second, first
        assert first < 0.46 and second > 0.54 and second - first > 0.25


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", ["egg", "basketball", "bomb"])
def test_as_many_as_the_caption_says(count: int, name: str) -> None:
    for grain in range(4):
        it = world.Scene(name, "green", count=count, grain=grain)
        away = np.abs(np.int16(world.draw(it, 128)) - np.int16(world.COLOURS["green"])).max(-1) > 20
        assert blobs(away) == count == len(world.parts(it))
    assert count == 1 or len({part.tilt for part in world.parts(it)}) == count


def test_parts_stay_on_the_canvas_and_apart() -> None:
    for it in [it for it in MANY if len(world.parts(it)) > 1][:200]:
        for part in world.parts(it):
            assert 0.12 < part.size <= 0.5
            assert all(0.1 < p < 0.9 for p in part.place)


@pytest.mark.parametrize("texture", world.TEXTURES[1:])
@pytest.mark.parametrize("colour", world.COLOURS)
def test_a_texture_is_in_two_tones_of_its_colour(texture: str, colour: str) -> None:
    it = world.Scene("key", colour, size=0.05, texture=texture, grain=5)
    pixels = np.asarray(world.draw(it, 128)).reshape(-1, 3)
    tones = [tone for tone, _ in Counter(map(tuple, pixels.tolist())).most_common(2)]
    assert np.abs(np.subtract(*tones)).max() >= 25
    assert np.abs(pixels.mean(0) - world.COLOURS[colour]).max() < 35
    distance = {name: np.abs(pixels.mean(0) - value).sum() for name, value in world.COLOURS.items()}
    assert min(distance, key=lambda name: distance[name]) == colour


def test_sizes_are_what_the_caption_says() -> None:
    for it in MANY:
        low, high = world.SIZES.get(it.sized, (0.7, 0.92))
        assert it.words or low <= it.size <= high
        assert it.words or (it.sized in world.caption(it).split() if it.sized else "small" not in world.caption(it))


def test_planted_pictures_are_always_the_same() -> None:
    drawn = {it.words: it for it in MANY if it.words}
    assert len(mixture.PLANTED) == 6 and set(drawn.values()) == set(mixture.PLANTED)
    for i, it in enumerate(mixture.PLANTED):
        assert mixture.planted(i) == it and world.caption(it) == it.words
        assert world.draw(it).tobytes() == world.draw(drawn[it.words]).tobytes()
        assert {it.subject, it.other} <= set(emoji.KNOWN)
    assert not [it for it in mixture.mixture(3, 300, ("cat", "dog")) if it.words]
    assert {it.subject for it in mixture.mixture(3, 50, ("cat",))} == {"cat"}


def test_a_folder_of_a_mixture(tmp_path: Path) -> None:
    folders.write_world(tmp_path / "world", 40, 21, mixture=True)
    rows = [json.loads(line) for line in (tmp_path / "world" / "metadata.jsonl").read_text().splitlines()]
    for row, it in zip(rows, MANY, strict=False):
        assert (row["text"], row["kind"]) == (world.caption(it), world.kind(it))
        said = (it.subject, it.background, it.style, it.texture, it.sized, it.count, it.relation, it.other)
        keys = ("subject", "background", "style", "texture", "size", "count", "relation", "other")
        assert tuple(row[key] for key in keys) == said
    assert Image.open(tmp_path / "world" / "00039.png").tobytes() == world.draw(MANY[39]).tobytes()
    assert {row["kind"] for row in rows} >= {"single", "related", "counted"}
