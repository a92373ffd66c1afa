"""The model card of a run (README.md in its folder) and the last screen: where everything is and how to use it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .files import write_text

if TYPE_CHECKING:
    from .recipe import Recipe
    from .run import Run

CARD = """---
{front}---
# {name}

{summary} Trained by `tuner {command}` {version} on {count} pictures in {steps} steps, from the base `{base}`.

{picture}{proofs}

## Use it

{usage}
## How it was made

`tuner {command} --config config.toml` makes it again.

```toml
{toml}```
"""


def write(run: Run, recipe: Recipe, config: Any, usage: str, proofs: list[str]) -> None:
    """Write the model card. It is written last: a run that has one is finished."""
    about = sys.modules[type(recipe).__module__].__doc__ or ""
    text = CARD.format(
        front=_front(config.base, run.values["command"], recipe.subject(config)),
        base=config.base,
        command=run.values["command"],
        name=run.name,
        version=__version__,
        summary=about.split("\n")[0],
        count=len(recipe.source) - recipe.source.prior,
        steps=config.steps,
        picture="![before and after, at the same seeds](samples/sheet.png)\n\n" if _sheet(run) else "",
        proofs="\n".join(f"- {sentence}" for sentence in proofs),
        usage=usage,
        toml=(run.folder / "config.toml").read_text(encoding="utf-8"),
    )
    write_text(run.folder / "README.md", text)


def _front(base: str, command: str, trigger: str) -> str:
    """The card's front matter, which the Hub reads: YAML, of which JSON's values are a part.

    A base that is a folder or a file on this machine, or bundled, is none that the Hub knows.
    """
    front: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    front["tags"] = ["tuner", command.split()[0], "text-to-image"]
    if base.count("/") == 1 and not base.startswith((".", "/", "~")) and not Path(base).exists():
        front["base_model"] = base
    if trigger:
        front["instance_prompt"] = trigger
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in front.items())


def closing(run: Run, flags: str, paths: list[Path], prompt: str) -> str:
    """The last screen."""
    rows = [(f"{path.relative_to(run.folder)}{'/' * path.is_dir()}", f"{_size(path) / 1e6:.1f} MB") for path in paths]
    rows += [
        *([("samples/sheet.png", "before and after, at the same seeds")] if _sheet(run) else []),
        ("README.md", "model card; how to use it in other programs"),
    ]
    lines = [f"  {name:44} {words}" for name, words in rows]
    asked = f"Try it: tuner generate {json.dumps(prompt, ensure_ascii=False)} {flags}"
    return "\n".join([f"Done. Everything is in {run.folder}:", *lines, asked])


def _sheet(run: Run) -> bool:
    return (run.samples / "sheet.png").is_file()


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
