"""A recipe file of one's own, as small as they come."""

from pathlib import Path

import pytest

RECIPE = '''"""Pull one number up.

It needs no model."""

from typing import Literal

import torch

from tuner.config import common, option
from tuner.recipe import Recipe, TrainConfig


class Config(TrainConfig):
    rank: int = common(16, "Rank of the update.", ge=1)
    colour: Literal["red", "blue"] = common("red", "What it looks like.")
    wide: bool = option(True, "Wide.")
    ranks: list[int] = option([1, 2], "Ranks [in brackets].", metavar="W")


class Pull(Recipe):
    Config = Config

    def __init__(self, config, model):
        super().__init__(config, model)
        self.number = torch.nn.Parameter(torch.zeros(1))

    @classmethod
    def base(cls, config):
        print("CONFIG", config.model_dump_json())
        return super().base(config)

    def forward(self, batch):
        return (self.number - 1).square().expand(len(batch.captions))
'''


@pytest.fixture
def own_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file's name; the current folder is the one that holds it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pull.py").write_text(RECIPE)
    return "pull.py"
