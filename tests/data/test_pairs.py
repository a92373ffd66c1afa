"""Prompts of what is taken out, and the same of what stands in its place."""

import pytest

from tuner.data.pairs import Concept, concepts, pairs_of
from tuner.errors import RequestError


def test_a_line_may_name_the_target_itself(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("a Grumpy Cat on a sofa\na cat in the snow\n")
    made = pairs_of(concepts(["grumpy cat"], ["cat"]), "instance", str(file))
    assert [(pair.target, pair.anchor) for pair in made] == [
        ("a grumpy cat on a sofa", "a cat on a sofa"),
        ("a grumpy cat in the snow", "a cat in the snow"),
    ]


def test_no_target_is_taught_to_stay_by_the_prompt_of_another_s_anchor(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("a cat next to a taxi\na photo of a {}\n")
    made = pairs_of(concepts(["grumpy cat", "taxi"], ["cat", "car"]), "instance", str(file))
    assert [(pair.target, pair.anchor) for pair in made] == [
        ("a photo of a grumpy cat", "a photo of a cat"), ("a cat next to a taxi", "a cat next to a car"),
        ("a photo of a taxi", "a photo of a car"),
    ]  # fmt: skip
    file.write_text("a cat next to a taxi\n")
    with pytest.raises(RequestError, match="no line"):
        pairs_of(concepts(["grumpy cat", "taxi"], ["cat", "car"]), "instance", str(file))


def test_an_anchor_whose_own_name_has_the_target_in_it_is_taken():
    made = pairs_of(concepts(["cat"], ["cat plushie"]), "instance")
    assert (made[0].target, made[0].anchor) == ("a cat", "a cat plushie")


def test_the_longer_of_two_names_is_what_a_line_names():
    """Else `a red car` would name a car, and its anchor be a red red car."""
    for concept in (Concept("car", "red car"), Concept("red car", "car")):
        pair = concept.pair("a red car on a road")
        assert (pair.target, pair.anchor) == (f"a {concept.target} on a road", f"a {concept.anchor} on a road")
