"""The stages of the bundled base: options that their recipes have, each going on from what came before."""

import tomllib
from pathlib import Path

import pytest

from tuner.bundled.base import stages, training
from tuner.config import build
from tuner.places import place
from tuner.recipe import load_recipe, recipe_class


def kind(command):
    return recipe_class(load_recipe(place("recipes") / f"{command.replace('-', '_')}.py"))


@pytest.mark.parametrize("start", ["new", "emoji"])
def test_each_stage_goes_on_from_the_one_before(start, tmp_path):
    found = list(stages(tmp_path, 4000, start))
    made = {str(tmp_path / name / "pipeline") for name, _, _ in found} | {str(tmp_path / "grammar"), start, ""}
    for name, command, options in found:
        config = build(kind(command).Config, options)
        assert options.get("base", "") in made and Path(config.images).parent == tmp_path, name
    assert [name for name, _, _ in found][-5:] == ["base", "sides", "further", "last", "decoder"]


def test_the_defaults_that_it_brings_along_are_options_of_their_commands():
    for command, values in tomllib.loads(training()).items():
        if command != "evaluate":
            build(kind(command).Config, values | ({"target": ["a"], "anchor": ["b"]} if command == "ablate" else {}))
