"""What prompts ask for."""

import pytest

from tuner.bundled import world
from tuner.bundled.mixture import mixture
from tuner.evaluation.asked import Asked, Names
from tuner.evaluation.relations import Related

SUBJECTS = ("cat", "grumpy cat", "dog", "car", "rose", "fire")
NAMES = Names(SUBJECTS, ("red", "orange", "blue"), ("plain", "pixel art", "neon"), ("police car", "fire truck"))


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("a cat on a red background", Asked("cat", "red")),
        ("A Grumpy Cat on a RED background", Asked("grumpy cat", "red")),
        ("a pixel art of a dog on a blue background", Asked("dog", "blue", "pixel art")),
        ("a dog, neon, blue background", Asked("dog", "blue", "neon")),
        ("a rose on a striped orange background", Asked("rose", "orange")),
        ("a dog left of a car on a blue background", Asked("", "blue", "", Related("dog", "left of", "car"))),
        ("a dog to the right of a grumpy cat", Asked("", "", "", Related("dog", "right of", "grumpy cat"))),
        ("a police car on a red background", Asked("", "red")),  # not to be judged, and no car
        ("a dog and a car", Asked()),
        ("two cats on a red background", Asked("", "red")),
        ("a fire truck", Asked()),
        ("a dog on a red background with a blue background", Asked("dog")),
        ("a catalogue of scars", Asked()),
        ("", Asked()),
    ],
)
def test_prompts_are_understood(prompt, asked):
    assert NAMES.asked(prompt) == asked


def test_every_phrasing_of_the_world_is_understood():
    names = Names(world_subjects(), world.COLOURS, world.STYLES)
    wrong = []
    for it in mixture(8300, 1500):
        asked, text = names.asked(world.caption(it)), world.caption(it)
        if world.kind(it) == "planted":
            continue
        style = "" if it.style == "plain" else it.style
        background = it.background if f"{it.background} background" in text else ""
        subject = it.subject if world.kind(it) in ("single", "sized") else ""
        relation = Related(it.subject, it.relation, it.other) if it.relation else None
        if asked != Asked(subject, background, style, relation):
            wrong.append((text, asked))
    assert wrong == []


def world_subjects():
    from tuner.bundled import emoji

    return emoji.KNOWN


def test_no_names_ask_for_nothing():
    assert Names((), (), ()).asked("a cat on a red background") == Asked()
