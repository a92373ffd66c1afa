"""The picture world: a seed means the same scenes for good, and the captions keep to the contract."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tuner.bundled import emoji, folders, world
from tuner.errors import RequestError

SCENE = world.Scene("dog", "blue", size=0.7)
FIRST = world.Scene("banana", "pink", "comic", 0.7317151147983194, (0.6203658654210129, 0.44951722270406613),
                    2.6782474341840676, False, 551886181)  # fmt: skip


def difference(one: world.Scene, other: world.Scene, size: int = 64) -> float:
    """Mean absolute difference of two scenes' pictures, in levels of 255."""
    return float(np.abs(np.int16(world.draw(one, size)) - np.int16(world.draw(other, size))).mean())


def some(seed: int = 11, count: int = 300) -> Iterator[world.Scene]:
    return world.scenes(seed, count, emoji.KNOWN)


def test_a_seed_means_the_same_scenes_and_pictures() -> None:
    assert list(some()) == list(some())
    assert list(some(12)) != list(some())
    for it in some(count=10):
        assert world.draw(it).tobytes() == world.draw(it).tobytes()


def test_a_scene_depends_on_its_own_number_alone() -> None:
    assert list(some(count=20)) == list(some(count=300))[:20]
    backwards = [world.scene(np.random.default_rng((11, i)), emoji.KNOWN) for i in reversed(range(20))]
    assert backwards[::-1] == list(some(count=20))


def test_the_format_of_seeds_has_not_changed() -> None:
    assert next(world.scenes(1, 1, emoji.FIRST)) == FIRST


def test_captions_follow_the_contract() -> None:
    colours, styles = "|".join(world.COLOURS), "|".join(set(world.STYLES) - {"plain", "pencil sketch"})
    plain = re.compile(rf"a ((?P<style>{styles}) of a )?(?P<subject>.+) on a (?P<background>{colours}) background")
    sketch = re.compile(r"a (?P<style>pencil sketch) of a (?P<subject>.+)(?P<background>)")
    for it in some():
        pattern = sketch if it.style == "pencil sketch" else plain
        said = pattern.fullmatch(world.caption(it))
        assert said, world.caption(it)
        assert (said["subject"], said["background"], said["style"] or "plain") == (it.subject, it.background, it.style)


def test_the_caption_of_a_plain_scene() -> None:
    assert world.caption(SCENE) == "a dog on a blue background"
    assert world.caption(world.in_style(SCENE, "neon")) == "a neon of a dog on a blue background"
    assert world.caption(world.in_style(SCENE, "pencil sketch")) == "a pencil sketch of a dog"


def test_every_word_is_in_the_vocabulary() -> None:
    words = set(world.vocabulary())
    for it in world.scenes(13, 600, emoji.KNOWN + emoji.HELD_OUT):
        assert set(world.caption(it).split()) <= words
    assert all(name in emoji.table() for name in emoji.KNOWN + emoji.HELD_OUT)


def test_what_is_held_out_is_never_among_the_known() -> None:
    assert not set(emoji.KNOWN) & set(emoji.HELD_OUT)
    files = emoji.table()
    assert len({files[name] for name in emoji.KNOWN + emoji.HELD_OUT}) == len(emoji.KNOWN + emoji.HELD_OUT)
    assert not {it.subject for it in some(count=2000)} & set(emoji.HELD_OUT)


def test_the_eleven_cats_are_there_and_differ() -> None:
    assert len(emoji.CATS) == 11
    assert set(emoji.CATS) <= {it.subject for it in some(count=2000)}
    assert len({emoji.picture(name).tobytes() for name in emoji.CATS}) == 11


@pytest.mark.parametrize("change", [{"mirror": True}, {"tilt": 12.0}, {"size": 0.9}, {"place": (0.4, 0.6)}])
@pytest.mark.parametrize("style", world.STYLES)
def test_each_number_of_a_scene_changes_the_picture(change: dict, style: str) -> None:
    it = world.in_style(SCENE, style)
    assert difference(it, replace(it, **change)) > 1


def test_styles_and_backgrounds_change_the_picture() -> None:
    for style in world.STYLES[1:]:
        assert difference(SCENE, world.in_style(SCENE, style)) > 1
    corners = {world.draw(world.Scene("dog", name)).getpixel((0, 0)) for name in world.COLOURS}
    assert corners == set(world.COLOURS.values())


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("style", world.STYLES)
def test_pictures_of_both_sizes(size: int, style: str) -> None:
    picture = world.draw(world.in_style(SCENE, style), size)
    assert (picture.mode, picture.size) == ("RGB", (size, size))
    assert np.asarray(picture).std() > 5


def test_a_folder_of_scenes(tmp_path: Path) -> None:
    folders.write_world(tmp_path / "world", 6, 5, 32, ("cat", "dog"), "watercolor")
    rows = [json.loads(line) for line in (tmp_path / "world" / "metadata.jsonl").read_text().splitlines()]
    assert list(rows[0]) == [
        "file_name", "text", "subject", "background", "style", "kind", "texture", "size", "count", "relation", "other",
    ]  # fmt: skip
    assert [rows[0][key] for key in list(rows[0])[5:]] == ["single", "", "", 1, "", ""]
    assert len(rows) == 6 and {row["style"] for row in rows} == {"watercolor"}
    first = next(world.scenes(5, 1, ("cat", "dog"), styles=("watercolor",)))
    assert rows[0]["text"] == world.caption(first)
    picture = Image.open(tmp_path / "world" / rows[0]["file_name"])
    assert picture.tobytes() == world.draw(first, 32).tobytes()


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="did you mean `grumpy cat`"):
        folders.subjects_of(["grumpy cta"], [])
    with pytest.raises(RequestError, match="no subject"):
        folders.subjects_of(["cat"], ["cat"])
    with pytest.raises(RequestError, match="style"):
        folders.write_world(tmp_path / "world", 1, style="cubist")
    with pytest.raises(RequestError, match="mixture"):
        folders.write_world(tmp_path / "world", 1, style="neon", mixture=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="already"):
        folders.write_world(tmp_path, 1)


def test_the_ready_made_folders_are_what_is_there() -> None:
    for number, name in enumerate(emoji.HELD_OUT):
        scenes = folders.ready_made(number)
        assert {it.background for it in scenes} == set(world.COLOURS)
        folder = emoji.folder().parent / name.replace(" ", "_")
        assert [path.name for path in sorted(folder.glob("*.txt"))] == [f"{i:02d}.txt" for i in range(1, 13)]
        assert [(folder / f"{i:02d}.txt").read_text().strip() for i in range(1, 13)] == list(map(world.caption, scenes))
        stored, fresh = np.int16(Image.open(folder / "01.png").convert("RGB")), np.int16(world.draw(scenes[0], 128))
        assert np.abs(stored - fresh).mean() < 0.5  # not to the bit: versions of Pillow round in their own ways


def test_a_spread_scene_says_the_same_and_lies_elsewhere_whole():
    plain = list(world.scenes(3, 40, ("dog", "car"), styles=("plain",)))
    apart = [world.spread(it) for it in plain]
    assert apart == [world.spread(it) for it in plain]
    assert [world.caption(it) for it in apart] == [world.caption(it) for it in plain]
    assert min(it.size for it in apart) < 0.5 and max(it.size for it in apart) > 0.8
    for it in apart:
        assert all(it.size / 2 <= at <= 1 - it.size / 2 for at in it.place)
