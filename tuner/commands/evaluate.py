"""Judge a run, an adapter, a base or pictures: figures with intervals, and a page of pictures."""

from __future__ import annotations

import importlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import build, read_toml
from ..errors import RequestError
from ..evaluation.request import Config as Config
from ..evaluation.request import check
from ..places import PACKAGE, place
from .options import Command
from .options import command as command_of
from .recipes import recipe_file, summaries
from .show import Silent, showing

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..evaluation.bench import Judged
    from ..evaluation.report import Report
    from ..recipe import Recipe
    from ..sampling.shots import Shot

SUITES = PACKAGE / "evaluation" / "suites"
ABOUT = f"""{__doc__}

Leaves report.json, report.html (one file that shows everything, on a phone too) and the pictures. A run is judged by
the suite of its recipe, before and after at the same seeds. Every figure has its count and a 95% interval."""


def command(words: list[str]) -> tuple[Command, list[str]]:
    """The command, and the words left for it."""
    return command_of("evaluate", Config, evaluate, ABOUT, preset=_preset), words


def _preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the base that is judged brings along for its evaluation; and the guidance that a run has distilled."""
    from ..models.latent_diffusion import recommended

    names = given.get("run") or []
    values = read_toml(_run_folder(names[0]) / "config.toml") if len(names) == 1 else {}
    scales = [values[name] for name in ("guidance_min", "guidance_max") if name in values]
    own = {"guidance": sum(scales) / len(scales)} if scales else {}
    return {**recommended(str(given.get("base") or values.get("base", "emoji")), "evaluate"), **own}


def evaluate(config: Config) -> None:
    """Judge, write the report and tell the verdict."""
    judged, suite = _asked(config)
    folder = _folder(config, judged)
    show = Silent() if config.json else showing(config.quiet)
    try:
        report = None if judged is None else _report(suite, judged, config, show)
    finally:
        show.close()
    _leave(report, config, folder, show)


def report_of(config: Config, drawings: dict[Shot, Image] | None = None) -> Report:
    """What `evaluate` finds where there is something to judge, without a word or a file; `drawings` as in `Bench`."""
    judged, suite = _asked(config)
    assert judged is not None
    return _report(suite, judged, config, Silent(), drawings)


def _asked(config: Config) -> tuple[Judged | None, str]:
    """What is judged, and the suite."""
    check(config)
    judged, kind = _judged(config)
    suite = config.suite or _suite_of(judged, kind, config)
    known = summaries(SUITES)
    if judged is not None and suite not in known:
        raise RequestError(f"There is no suite {suite}; there are {', '.join(sorted(known))}.")
    return judged, suite


def _report(suite: str, judged: Judged, config: Config, show: Any, drawings: dict[Shot, Image] | None = None) -> Report:
    from ..evaluation.bench import Bench
    from ..randomness import use_threads

    use_threads()
    module = importlib.import_module(f"tuner.evaluation.suites.{suite.replace('-', '_')}")
    return module.evaluate(Bench(suite, judged, config, show, drawings))


def _leave(report: Report | None, config: Config, folder: Path, show: Any) -> None:
    """Write the report, and beside it the comparison with others; say what they say."""
    from ..evaluation.report import compare, save

    pages = []
    if report is not None:
        pages.append(save(report, folder))
    if config.compare:
        pages.append(compare([*map(Path, config.compare), *([folder] if report else [])], folder))
    if config.json:
        print(json.dumps(json.loads(pages[-1].with_suffix(".json").read_text(encoding="utf-8")), indent=2))
        return
    for sentence in report.sentences() if report else ():
        show.say(sentence)
    show.say(f"{' and '.join(map(str, pages))}: open {'them' if len(pages) > 1 else 'it'} in a browser.")


def _judged(config: Config) -> tuple[Judged | None, type[Recipe] | None]:
    """What is judged, and the recipe that made it; None where only stored reports are compared."""
    from ..adapters.apply import parse_adapter
    from ..evaluation.bench import Judged
    from ..evaluation.words import called
    from ..sampling.control_request import parse_control

    if config.run:
        return _of_run(_run_folder(config.run[0]), config)
    if config.pictures:
        return Judged(Path(config.pictures).resolve().name), None
    adapters = [parse_adapter(text) for text in config.adapter]
    folder, weight = parse_control(config.control) if config.control else ("", 1.0)
    control = (Path(folder), weight) if folder else None
    base = config.base or "emoji"
    names = [path.stem for path, _ in adapters] + ([Path(folder).resolve().name] if folder else [])
    if names:
        return Judged(" + ".join(names), base, adapters, subject=called(adapters), control=control), None
    return (Judged(Path(base).name, base), None) if config.base else (None, None)


def _of_run(folder: Path, config: Config) -> tuple[Judged, type[Recipe]]:
    from ..evaluation.bench import Judged
    from ..evaluation.results import results

    values = read_toml(folder / "config.toml")
    kind, name = _recipe(str(values.get("command", "")), folder), str(values.get("name", folder.name))
    left = results(folder, name)
    if not left:
        raise RequestError(
            f"The run in {folder} has left no result yet; let it finish: tuner ... --resume --out {folder}"
        )
    base = str(left.pipeline or config.base or values["base"])
    adapters, control = [(path, 1.0) for path in left.adapters], (left.control, 1.0) if left.control else None
    return Judged(name, base, adapters, values, folder, _subject(kind, values), control), kind


def _subject(kind: type[Recipe], values: Mapping[str, Any]) -> str:
    """What prompts call what a run learned, as far as its options say it."""
    return kind.subject(build(kind.Config, {key: v for key, v in values.items() if key in kind.Config.model_fields}))


def _recipe(command: str, folder: Path) -> type[Recipe]:
    """The recipe that a run's config.toml names."""
    from ..recipe import load_recipe, recipe_class

    words = shlex.split(command)
    if not words:
        raise RequestError(f"{folder}/config.toml does not say which command made the run.")
    file = Path(words[1]) if words[0] == "run" and len(words) > 1 else recipe_file(place("recipes"), words[0])
    return recipe_class(load_recipe(file))


def _run_folder(name: str) -> Path:
    """A run by its folder or by its name in runs/."""
    found = next((path for path in (Path(name), Path("runs") / name) if (path / "config.toml").is_file()), None)
    if found is None:
        way = "; a control network's folder is named by --control" if (Path(name) / "config.json").is_file() else ""
        raise RequestError(f"{name} is no run: there is no config.toml in it, nor in runs/{name}{way}.")
    return found


def _suite_of(judged: Judged | None, kind: type[Recipe] | None, config: Config) -> str:
    """The suite where none is named: the recipe's, else what the things to be judged allow."""
    if config.concept or config.style:
        return "merge"
    if kind is not None:
        return kind.suite
    if config.pictures:
        return "prompts" if config.prompts else "pictures"
    if judged and judged.control:
        return "control"
    if judged and _distilled(judged):
        return "few-step"
    return "subject" if judged and judged.adapters and config.images else "prompts"


def _distilled(judged: Judged) -> bool:
    from ..evaluation.distilled import manner_of

    return manner_of(judged) is not None


def _folder(config: Config, judged: Judged | None) -> Path:
    """Where the report goes. An explicit folder may hold other files, but no report."""
    if config.out:
        folder = Path(config.out)
        if (folder / "report.json").exists() or (folder.exists() and not folder.is_dir()):
            raise RequestError(f"--out {folder} holds a report already, or is a file; name a new folder.")
        return folder
    home = judged.folder if judged and judged.folder else Path()
    folder, number = home / "report", 1
    while folder.exists():
        number += 1
        folder = home / f"report-{number}"
    return folder
