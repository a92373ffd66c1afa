"""What `--help` shows."""

import subprocess
import sys

import pytest

from tuner.commands.recipes import summaries
from tuner.config import argument, common, flag, option, panel_of
from tuner.places import place
from tuner.recipe import TrainConfig, load_recipe, recipe_class

COMMANDS = ("generate", "demo", "run", *summaries(place("recipes")))


def words(text: str) -> str:
    """A help screen without its frames and line breaks."""
    return " ".join(text.translate(dict.fromkeys(map(ord, "│╭╮╰╯─"))).split())


def test_all_commands_with_their_summaries(tuner):
    result = tuner("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f" {name} " in words(result.stdout)
    for summary in summaries(place("recipes")).values():
        assert summary in words(result.stdout)
    assert tuner().stdout == result.stdout.rstrip("\n") + "\n"


def test_a_long_default_is_told_by_its_first_words(tuner):
    shown = words(tuner("evaluate", "--help").stdout)
    assert "[{} on a red background, {} on a orange background and 10 more]" in shown


def test_help_fits_80_columns(tuner):
    for call in (["--help"], ["generate", "--help"], ["pretrain", "-h"]):
        assert max(map(len, tuner(*call).stdout.splitlines())) <= 80


@pytest.mark.parametrize("recipe", sorted(place("recipes").glob("[a-z]*.py")), ids=lambda file: file.stem)
def test_every_field_stands_in_its_panel(tuner, recipe):
    config = recipe_class(load_recipe(recipe)).Config
    shown = tuner(recipe.stem.replace("_", "-"), "--help").stdout
    panels = {part.split(" ─")[0].strip(): words(part) for part in shown.split("╭─")[1:]}
    for name, field in config.model_fields.items():
        described = panels[panel_of(config, name, field)]
        assert flag(name) in described or f"--no-{flag(name)[2:]}" in described
        assert field.description in described
    assert {"--config", "--debug", "--help"} <= set(panels["Everywhere"].split())


def test_common_fields_first_then_the_recipes_own():
    class Config(TrainConfig):
        rank: int = common(4, "Often.")
        scale: float = option(1.0, "Seldom.")
        words: list[str] = argument("Words.", "WORD")

    fields = Config.model_fields
    assert panel_of(Config, "rank", fields["rank"]) == "Options"
    assert panel_of(Config, "scale", fields["scale"]) == "Method"
    assert panel_of(Config, "caption_dropout", fields["caption_dropout"]) == "Pictures and captions"


def test_help_of_a_recipe_file_of_ones_own(tuner, own_recipe):
    shown = words(tuner("run", own_recipe, "--help").stdout)
    assert "Pull one number up." in shown
    assert "--colour NAME What it looks like. [red, blue; default red]" in shown
    assert "--no-wide Wide. [on]" in shown and "--ranks W Ranks [in brackets]. [1, 2]" in shown
    assert "--images" in words(tuner("run", "--help").stdout)


def test_summaries_without_importing(tmp_path):
    (tmp_path / "my_way.py").write_text('"""Do it\n\nmy way."""\nraise AssertionError("imported")\n')
    (tmp_path / "broken.py").write_text("def\n")
    (tmp_path / "_private.py").write_text("")
    found = summaries(tmp_path)
    assert found["my-way"] == "Do it"
    assert "cannot be read" in found["broken"] and len(found) == 2


@pytest.mark.parametrize("call", [["--help"], ["--version"], ["generate", "--help"], ["nonsense"]])
def test_what_stays_unimported(call):
    probe = (
        "import sys; from tuner.commands import app\n"
        f"try: app({call})\n"
        "except SystemExit: pass\n"
        "print(*{'torch', 'diffusers', 'transformers', 'peft', 'accelerate', 'numpy', 'PIL'} & set(sys.modules), 'END')"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "END"
