"""What the tests share: tiny models of the real architecture, small folders of pictures, the real command line."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tuner.commands.quiet import turn_down

turn_down()  # as the command line does, before the libraries are imported
os.environ["HF_HUB_OFFLINE"] = "1"  # which is read once, when they are

if TYPE_CHECKING:
    from tuner.models.architecture import Sizes

WORDS = "a an on of background red green blue white cat dog sks teddy bear photo picture".split()
COLOURS = {"red": (214, 40, 40), "green": (50, 160, 70), "blue": (40, 80, 210), "white": (250, 250, 250)}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither this process nor those that it starts touch the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A diffusers folder of the SD 1.x architecture, shrunk, with random weights."""
    from tuner.models.architecture import Sizes, create, save

    sizes = Sizes(
        resolution=32, vae=(8, 16, 16), unet=(16, 32), attention=(True, False), heads=2, text_width=16, text_length=16
    )
    folder = tmp_path_factory.mktemp("base") / "tiny"
    save(create(sizes, WORDS, seed=1), folder)
    return str(folder)


def shrunk(family: str, prediction: str = "epsilon") -> "Sizes":
    """The sizes of a family's architecture, shrunk: its own levels, block types and key names."""
    from tuner.models.architecture import Sizes

    levels = {"sdxl": (64, (16, 32, 32), (False, True, True), (1, 1, 2))}
    four = (128, (16, 32, 32, 32), (True, True, True, False), (1, 1, 1, 1))  # at 64 px its middle would be one pixel
    resolution, unet, attention, transformers = levels.get(family, four)
    return Sizes(
        family=family, prediction=prediction, resolution=resolution, vae=(8, 8, 16, 16), vae_attention=True, unet=unet,
        attention=attention, transformers=transformers, layers=2, heads=2, text_width=32, text_length=16,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """`tiny_family("sdxl")`: a diffusers folder of a family (sd1, sd2, sdxl), shrunk, with random weights."""
    from tuner.models.architecture import create, save

    @cache
    def made(family: str) -> str:
        folder = tmp_path_factory.mktemp("base") / family
        save(create(shrunk(family, "v_prediction" if family == "sd2" else "epsilon"), WORDS, seed=1), folder)
        return str(folder)

    return made


@pytest.fixture
def images(tmp_path: Path) -> str:
    """Four pictures of 32 x 32 with captions beside them."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in COLOURS.items():
        picture = Image.new("RGB", (32, 32), colour)
        picture.paste((120, 90, 60), (8, 8, 24, 24))
        picture.save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a teddy bear on a {name} background")
    return str(folder)


@pytest.fixture
def tuner():
    """Run `tuner ARGS...` in this process; the result has exit_code, stdout and stderr."""
    from tuner.commands import app

    def run(*args: object):
        return CliRunner().invoke(app, [str(arg) for arg in args])

    return run
