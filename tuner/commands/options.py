"""From a configuration's fields to a Typer command. Every option is unset by default: a flag goes before the file that
`--config` names, the file before the field's own default."""

import difflib
import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperCommand

from ..config import Options, build, flag, nearest, panel_of, read_toml, said_of
from ..errors import RequestError
from .help import EVERYWHERE, show_command

C = TypeVar("C", bound=Options)
METAVARS = {int: "N", float: "X", str: "TEXT"}


class Command(TyperCommand):
    """A command whose options are the fields of a configuration."""

    config: type[Options]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        left = super().parse_args(ctx, args)
        for name, value in ctx.params.items():  # `--images --rank 4`: an option taken for a value
            if isinstance(value, str) and value.startswith("--") and value[2:].replace("-", "_") in ctx.params:
                raise RequestError(f"{flag(name)} needs a value; the option {value} follows it.")
        if left:
            raise RequestError(f"{ctx.command_path} does not know what to do with {left[0]}; an option begins with --.")
        return left

    def suggest(self, written: str) -> str:
        """The sentence for an option that does not exist."""
        fields = self.config.model_fields
        known = [name for name, field in fields.items() if not said_of(field, "argument")]
        bare = difflib.get_close_matches(written.lstrip("-"), fields.keys() - set(known))
        if bare:
            word = said_of(fields[bare[0]], "metavar")
            return f"There is no option {written}; a {bare[0]} stands by itself: `tuner {self.name} {word}...`."
        near = nearest(written, [*known, "config", "help", "debug"], self.config.elsewhere)
        sentence = f"There is no option {written}{near or f'; `tuner {self.name} --help` lists the options'}"
        return sentence if sentence.endswith("?") else f"{sentence}."

    def format_help(self, ctx: Any, formatter: Any) -> None:
        show_command(self, ctx)


def command(
    name: str,
    config: type[C],
    work: Callable[[C], None],
    about: str,
    stored: str = "",
    preset: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda given: {},
) -> Command:
    """A command with an option for every field.

    Args:
        name: what the user types after `tuner`.
        config: the fields.
        work: what the command does with them.
        about: the text of its help.
        stored: what runs call the command in their config.toml; by default its name.
        preset: from what the user gave to the defaults that go before those of the fields.
    """
    parameters = [_parameter(config, *item, preset({})) for item in _sorted(config)]
    help_of_file = "TOML file of options, such as a run's config.toml; flags go before it."
    told = typer.Option("--config", help=help_of_file, metavar="FILE", show_default=False, rich_help_panel=EVERYWHERE)
    parameters.append(_keyword("config", Path, told))

    def called(**given: Any) -> None:
        file = given.pop("config")
        flags = {key: [] if value == [""] else value for key, value in given.items() if value is not None}
        read = values_of(file, stored or name) if file else {}
        where = f"--config {file}" if file else ""
        work(build(config, {**preset({**read, **flags}), **read, **flags}, where, read.keys() - flags.keys()))

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False)
    app.command(name, cls=Command, help=about)(called)
    made = typer.main.get_command(app)
    assert isinstance(made, Command)
    made.config = config
    return made


def values_of(file: Path, command: str) -> dict[str, Any]:
    """The options in a TOML file for a command.

    Raises:
        RequestError: the file cannot be read, or it is another command's.
    """
    values = read_toml(file)
    meant = values.pop("command", command)
    if not _same(str(meant), command):
        raise RequestError(f"--config {file} is for another command; use it as `tuner {meant} --config {file}`.")
    for key, value in values.items():
        if isinstance(value, dict):
            raise RequestError(f"--config {file} has a table [{key}]; its keys must be flat, without headings.")
    return values


def _same(one: str, other: str) -> bool:
    """Whether two commands are the same. A recipe file of one's own may have been moved: only its name counts."""
    runs = one.startswith("run ") and other.startswith("run ")
    return one == other or (runs and Path(one).name.strip("'\"") == Path(other).name.strip("'\""))


def _sorted(config: type[Options]) -> list[tuple[str, FieldInfo]]:
    """The fields as the help shows them: mixin by mixin in the order in which the class names them, its own first."""
    found: dict[str, FieldInfo] = {}
    for owner in config.__mro__:
        for name in inspect.get_annotations(owner):
            inherited = any(name in inspect.get_annotations(base) for base in owner.__mro__[1:])
            if name in config.model_fields and not inherited:
                found[name] = config.model_fields[name]
    return list(found.items())


def _parameter(config: type[Options], name: str, field: FieldInfo, preset: Mapping[str, Any]) -> inspect.Parameter:
    """A field as a parameter of the function that Typer reads. Values are words: pydantic alone says what they mean."""
    kind = _plain(field.annotation)
    many = get_origin(kind) in (list, tuple, set)
    item = _plain(get_args(kind)[0]) if many else kind
    choices = [str(choice) for choice in get_args(item)] if get_origin(item) is Literal else []
    default = _shown(preset.get(name, field.get_default(call_default_factory=True)))
    about = field.description or ""
    if said_of(field, "argument"):
        return _keyword(name, list[str], typer.Argument(help=about, metavar=said_of(field, "metavar")))
    if choices:
        default = "; ".join(filter(None, (", ".join(choices), f"default {default}" if default else "")))
    words = [f"{flag(name)}/--no-{flag(name)[2:]}"] if kind is bool else [flag(name)]
    metavar = said_of(field, "metavar") or ("NAME" if choices else METAVARS.get(item, "TEXT"))
    told = typer.Option(
        *words,
        help=about,
        metavar=None if kind is bool else metavar,
        show_default=default or False,
        rich_help_panel=panel_of(config, name, field),
        autocompletion=(lambda: choices) if choices else None,
    )
    return _keyword(name, bool if kind is bool else list[str] if many else str, told)


def _keyword(name: str, kind: Any, told: Any) -> inspect.Parameter:
    annotation = Annotated[kind | None, told]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _plain(kind: Any) -> Any:
    """A type without `| None`."""
    left = [part for part in get_args(kind) if part is not type(None)]
    return left[0] if get_origin(kind) in (Union, types.UnionType) and left else kind


def _shown(default: Any) -> str:
    """A default as the help writes it; empty where it says nothing."""
    if default is True:
        return "on"
    if default is False or default is None or default in ("", [], ()):
        return ""
    if isinstance(default, list | tuple):
        more = f" and {len(default) - 2} more" if len(default) > 3 else ""
        return ", ".join(map(_shown, default[:2] if more else default)) + more
    return f"{default:g}" if isinstance(default, float) else str(default)
