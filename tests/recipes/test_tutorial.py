"""The tutorial: its page says what its recipe does, and the recipe does what its paper says.

That the recipe obeys the laws is seen to by `test_laws.py`, which runs over it as over all others.
"""

import re
import shlex
import textwrap
from pathlib import Path

import pytest
import torch

from tuner.config import build
from tuner.recipe import load_recipe, recipe_class
from tuner.run import Run

ROOT = Path(__file__).parents[2]
FILE, PAGE = ROOT / "docs" / "my_recipe.py", ROOT / "docs" / "writing-a-recipe.md"
KIND = recipe_class(load_recipe(FILE))


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def recipe(tiny_base, images, tmp_path):
    def made(**options):
        values = {"base": tiny_base, "images": images, "out": str(tmp_path / "run"), "threads": 1, **options}
        config = build(KIND.Config, values)
        recipe = KIND(config, KIND.base(config))
        run = Run.create(config, "test", "it", writes=False)
        recipe.source = recipe.data(run)
        return recipe

    return made


def test_the_page_shows_the_files_own_lines():
    code = FILE.read_text()
    assert len(code.splitlines()) < 60
    shown = blocks("python")
    assert len(shown) > 4
    for block in shown:
        assert any(textwrap.indent(block, " " * depth) in code for depth in (0, 4, 8)), block


def test_what_the_page_types_leaves_what_it_says(tuner, tiny_base, images, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, *words = shlex.split(blocks("sh")[0])
    assert program == "tuner"
    mine = ("--base", tiny_base, "--images", images, "--steps", 2, "--name", "fox", "--out", tmp_path / "fox")
    result = tuner(*words, *mine, "--quiet")
    assert result.exit_code == 0, result.stderr
    table = PAGE.read_text().split("| file |")[1].split("\n\n")[0]
    named = [name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]*)`", row.split("|")[1])]
    assert len(named) > 5 and all((tmp_path / "fox" / name).exists() for name in named), named


def test_every_command_of_the_page_is_understood(tuner):
    calls = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    runs = [words for program, *words in calls if words[0] == "run"]
    shown = tuner("run", FILE, "--help").stdout
    assert len(runs) == 2
    assert all(word in shown for words in runs for word in words if word.startswith("--"))


def test_the_nearest_of_the_candidates_is_added(recipe):
    made = recipe(candidates=8)
    batch = made.source.batch(0, range(4))
    x = made.near(batch)
    drawn = batch.draw.normal("candidates", 8, *x.latents.shape[1:])
    for latents, noise, several in zip(x.latents, x.noise, drawn, strict=True):
        distances = [(latents - one).norm().item() for one in several]
        assert torch.equal(noise, several[distances.index(min(distances))])
    assert torch.equal(x.noisy, made.model.add_noise(x.latents, x.noise, x.t))
    assert torch.equal(x.target, made.model.target(x.latents, x.noise, x.t))


def test_more_candidates_lie_nearer_and_one_is_plain_noise(recipe):
    def distance(candidates: int) -> float:
        made, found = recipe(candidates=candidates), []
        for step in range(25):
            x = made.near(made.source.batch(step, range(4)))
            found.append((x.noise - x.latents).square().mean((1, 2, 3)))
        return torch.cat(found).mean().item()

    one, few, many = distance(1), distance(8), distance(64)
    assert many < 0.97 * few < 0.97**2 * one


def test_a_noise_depends_on_its_picture_alone(recipe):
    made = recipe()
    together = made.near(made.source.batch(5, range(4))).noise
    alone = torch.cat([made.near(made.source.batch(5, [place])).noise for place in range(4)])
    assert torch.equal(together, alone)
