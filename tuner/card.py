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
base_model: {base}
library_name: diffusers
tags: [tuner, {command}]
---
# {name}

{summary} Trained by `tuner {command}` {version} on {count} pictures in {steps} steps, from the base `{base}`.

![before and after, at the same seeds]({samples})

{proofs}

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
        base=config.base,
        command=run.values["command"],
        name=run.name,
        version=__version__,
        summary=about.split("\n")[0],
        count=len(recipe.source) - recipe.source.prior,
        steps=config.steps,
        samples="samples/sheet.png",
        proofs="\n".join(f"- {sentence}" for sentence in proofs),
        usage=usage,
        toml=(run.folder / "config.toml").read_text(encoding="utf-8"),
    )
    write_text(run.folder / "README.md", text)


def closing(run: Run, config: Any, paths: list[Path], prompts: list[str]) -> str:
    """The last screen."""
    lines = [f"Done. Everything is in {run.folder}:"]
    lines += [
        f"  {path.relative_to(run.folder)!s:44} {path.stat().st_size / 1e6:.1f} MB" for path in paths if path.is_file()
    ]
    lines += [f"  {'samples/sheet.png':44} before and after, at the same seeds"]
    lines += [f"  {'README.md':44} model card; how to use it in diffusers, ComfyUI, A1111"]
    base = "" if config.base == "emoji" else f" --base {json.dumps(config.base)}"
    lines += [f"Try it: tuner generate {json.dumps(prompts[0])} --adapter {paths[0]}{base}"]
    return "\n".join(lines)
