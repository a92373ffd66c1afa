"""Figures that take hours: kept beside the page that tells them, so that it is made again without measuring again.

A record is a JSON file of what was asked and what was found. One that was asked otherwise is measured anew; after a
change of what is measured, delete it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..files import replacing, write_json


def kept(file: Path, asked: Mapping[str, Any], measures: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """What each of `measures` finds, by its name: read from `file` where that is known for what is asked.

    `asked` and what is found are plain JSON values. The file is written after each measure.
    """
    asked = json.loads(json.dumps(asked))
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found = dict(record["found"]) if record.get("asked") == asked else {}
    for name, measure in measures.items():
        if name not in found:
            found[name] = measure()
            write_json(file, {"asked": asked, "found": found})
    return {name: found[name] for name in measures}


def keep_strip(file: Path, pictures: Sequence[Image.Image]) -> None:
    """Write pictures of one size side by side, as one file."""
    width, height = pictures[0].size
    strip = Image.new("RGB", (width * len(pictures), height))
    for place, picture in enumerate(pictures):
        strip.paste(picture.convert("RGB"), (place * width, 0))
    with replacing(file) as part:
        strip.save(part, "WEBP", quality=90, method=6)


def kept_strip(file: Path) -> list[Image.Image]:
    """The pictures of a strip, which are square; none where there is no file."""
    if not file.is_file():
        return []
    with Image.open(file) as found:
        strip = found.convert("RGB")
    side = strip.height
    return [strip.crop((x, 0, x + side, side)) for x in range(0, strip.width, side)]
