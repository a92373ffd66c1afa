"""Train the example of the README, and show pictures before and after."""

from pathlib import Path

from ..config import read_toml
from ..errors import RequestError
from ..places import place
from .options import Command
from .recipes import recipe_file
from .train import command as training


def command(words: list[str]) -> tuple[Command, list[str]]:
    """The training command that datasets/demo.toml names, with that file's values as defaults."""
    datasets = place("datasets")
    file = datasets / "demo.toml"
    if not file.is_file():
        raise RequestError(f"The demo's options are missing: there is no {file}.")
    values = read_toml(file)
    name = str(values.pop("command"))
    values["images"] = _short(datasets / str(values["images"]))
    made = training("demo", recipe_file(place("recipes"), name), stored=name, preset=values)
    made.help = f"{__doc__}\n\nA run of `tuner {name} --images {values['images']}`; every option may be changed."
    return made, words


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
