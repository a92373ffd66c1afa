"""Options: what goes before what, and what a wrong one is answered with."""

import json
from pathlib import Path

import pytest

from tuner.config import ELSEWHERE, build, nearest, read_toml
from tuner.errors import RequestError
from tuner.recipe import TrainConfig


@pytest.fixture
def resolved(tuner, own_recipe):
    """The configuration that a call of the recipe of one's own arrives at (its base does not exist)."""

    def call(*flags: object) -> dict:
        result = tuner("run", own_recipe, "--base", "./none", "--images", ".", *flags)
        told = next((line for line in result.stdout.splitlines() if line.startswith("CONFIG ")), None)
        assert told, result.stderr
        return json.loads(told.removeprefix("CONFIG "))

    return call


def test_flag_before_file_before_default(resolved):
    Path("mine.toml").write_text('rank = 8\nsteps = 7\ncolour = "blue"\nwide = false\nranks = [5]\n')
    default, file = resolved(), resolved("--config", "mine.toml")
    assert (default["rank"], default["steps"], default["colour"], default["wide"]) == (16, 500, "red", True)
    assert (file["rank"], file["steps"], file["colour"], file["wide"], file["ranks"]) == (8, 7, "blue", False, [5])
    both = resolved("--config", "mine.toml", "--rank", 4, "--colour", "red", "--wide", "--ranks", 1, "--ranks", 3)
    assert (both["rank"], both["steps"], both["colour"], both["wide"], both["ranks"]) == (4, 7, "red", True, [1, 3])


def test_a_list_of_a_file_can_be_emptied_by_a_flag(resolved):
    Path("mine.toml").write_text('validation_prompt = ["a cat"]\n')
    assert resolved("--config", "mine.toml")["validation_prompt"] == ["a cat"]
    assert resolved("--config", "mine.toml", "--validation-prompt", "")["validation_prompt"] == []
    several = resolved("--validation-prompt", "", "--validation-prompt", "a dog")
    assert several["validation_prompt"] == ["", "a dog"]  # the empty prompt among others is one


def test_values_keep_their_types(resolved):
    config = resolved("--learning-rate", "3e-5", "--no-wide", "--validation-prompt", "a [b]", "--caption", "")
    assert config["learning_rate"] == 3e-5 and config["wide"] is False
    assert config["validation_prompt"] == ["a [b]"] and config["caption"] == ""


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--rnak", "3"], "There is no option --rnak; did you mean --rank?"),
        (["--network_dim=8"], "There is no option --network_dim; here it is --rank."),
        (["--network-dim", "8"], "There is no option --network-dim; here it is --rank."),
        (["--batch_size", "8"], "There is no option --batch_size; here it is --batch-size."),
        (["-rank", "8"], "There is no option -rank; here it is --rank."),
        (["--use_8bit_adam"], "There is no option --use_8bit_adam; here it is --optimizer adamw8bit."),
        (["--lr", "1"], "There is no option --lr; here it is --learning-rate."),
        (["--confg", "x"], "There is no option --confg; did you mean --config?"),
        (["--network_alpha", "8"], "There is no option --network_alpha; `tuner run pull.py --help` lists the options."),
        (["--rank", "0"], "--rank must be at least 1, not 0."),
        (["--rank", "x"], "--rank must be a whole number, not x."),
        (["--learning-rate", "nan"], "--learning-rate must be a finite number, not nan."),
        (["--ema", "1"], "--ema must be less than 1, not 1."),
        (["--colour", "bleu"], "--colour must be one of red, blue, not bleu; did you mean blue?"),
        (["--ranks", "1", "--ranks", "x"], "--ranks must be a whole number, not x."),
        (["--rank"], "--rank needs a value."),
        (["--images", "--rank", "4"], "--images needs a value; the option --rank follows it."),
        (["--resume=yes"], "--resume takes no value."),
        (["more"], "tuner run pull.py does not know what to do with more; an option begins with --."),
        (["--name", "a/b"], "--name a/b holds characters that cannot stand there."),
    ],
)
def test_wrong_flags(tuner, own_recipe, flags, sentence):
    result = tuner("run", own_recipe, *flags)
    assert (result.exit_code, result.stderr) == (2, f"Error: {sentence}\n")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rnak = 3", "--config it.toml has an unknown key `rnak`; did you mean `rank`?"),
        ("network_dim = 3", "--config it.toml has an unknown key `network_dim`; here it is `rank`."),
        ("batch-size = 3", "--config it.toml has an unknown key `batch-size`; here it is `batch_size`."),
        ("xyzzy = 3", "--config it.toml has an unknown key `xyzzy`; `--help` lists them."),
        ("rank = 0", "`rank` in --config it.toml must be at least 1, not 0."),
        ("[lora]\nrank = 3", "--config it.toml has a table [lora]; its keys must be flat, without headings."),
        (
            'command = "pretrain"',
            "--config it.toml is for another command; use it as `tuner pretrain --config it.toml`.",
        ),
    ],
)
def test_wrong_files(tuner, own_recipe, text, sentence):
    Path("it.toml").write_text(text)
    result = tuner("run", own_recipe, "--config", "it.toml")
    assert (result.exit_code, result.stderr) == (2, f"Error: {sentence}\n")


def test_files_that_cannot_be_read(tuner, own_recipe):
    Path("torn.toml").write_text("rank =")
    for name, reason in (("none.toml", "No such file"), ("torn.toml", "not valid TOML")):
        result = tuner("run", own_recipe, "--config", name)
        assert result.exit_code == 2 and name in result.stderr and reason in result.stderr


def test_a_runs_own_file_gives_the_run_again(tuner, own_recipe, tiny_base, images):
    flags = ("--base", tiny_base, "--images", images, "--steps", 2, "--rank", 3, "--quiet", "--out", "first")
    told = tuner("run", own_recipe, *flags).stdout
    saved = read_toml(Path("first/config.toml"))
    assert saved["command"] == "run pull.py" and saved["rank"] == 3
    assert "step 1/2: loss 1.0000" in told
    again = tuner("run", Path(own_recipe).resolve(), "--config", "first/config.toml", "--dry-run")
    assert again.exit_code == 0, again.stderr
    assert '"rank":3' in again.stdout
    other = tuner("pretrain", "--config", "first/config.toml")
    assert other.exit_code == 2 and "tuner run pull.py --config" in other.stderr


def test_only_names_that_the_command_has_are_offered():
    for theirs in ELSEWHERE:
        assert "--" not in nearest(theirs, ["zzz"])
    assert nearest("proportion_empty_prompts", ["caption_dropout"]) == "; here it is --caption-dropout"


def test_build_without_a_file():
    with pytest.raises(RequestError, match="The configuration has an unknown key `stepps`; did you mean --steps"):
        build(TrainConfig, {"stepps": 3})


def test_the_demo_is_a_command_with_defaults_of_its_own(tuner, tiny_base):
    result = tuner("demo", "--base", tiny_base, "--resolution", 32, "--steps", 3, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "12 pictures, 3 steps" in result.stdout
    assert tuner("demo", "--images", "none", "--base", tiny_base).exit_code == 2
