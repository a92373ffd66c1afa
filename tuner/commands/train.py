"""The training commands: a recipe's options, and the job that they describe."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..models.latent_diffusion import recommended
from ..recipe import Recipe, load_recipe, recipe_class
from ..run import recalled
from ..training.job import run_recipe
from ..training.optimizers import PREFERRED
from .options import Command
from .options import command as command_of
from .show import showing


def command(name: str, file: Path, stored: str = "", preset: Mapping[str, Any] | None = None) -> Command:
    """The command of a recipe file.

    Args:
        name: what the user types after `tuner`.
        file: the recipe.
        stored: what its runs call the command; by default `name`.
        preset: defaults that go before the recipe's and the base's.

    Raises:
        RequestError: the file is not a recipe.
    """
    kind, about = _recipe(file)

    def train(config: Any) -> None:
        run_recipe(kind, config, stored or name, showing(config.quiet))

    def defaults(given: Mapping[str, Any]) -> dict[str, Any]:
        fields = kind.Config.model_fields
        base = str(given.get("base", fields["base"].default))
        values = kind.usual(given, {**recommended(base, stored or name), **(preset or {})})
        optimizer = str({**values, **given}.get("optimizer", ""))
        values |= {**PREFERRED.get(optimizer, {}), **recalled(given)}
        return {key: value for key, value in values.items() if key in fields}

    return command_of(name, kind.Config, train, about, stored, defaults)


def _recipe(file: Path) -> tuple[type[Recipe], str]:
    try:
        module = load_recipe(file)
    except SyntaxError as error:
        raise RequestError(f"{error.filename}, line {error.lineno}: {error.msg}.") from error
    return recipe_class(module), inspect.getdoc(module) or ""
