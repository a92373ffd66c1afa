"""Files of prompts: one a line, with the flags that kohya's sample prompts have."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RequestError

# kohya's letter -> the field of a shot, its type, the least and the greatest value
FLAGS: dict[str, tuple[str, type, float, float]] = {
    "n": ("negative", str, 0, 0), "w": ("width", int, 1, 65536), "h": ("height", int, 1, 65536),
    "d": ("seed", int, 0, 2**63 - 1), "l": ("guidance", float, 0, 1e6), "s": ("steps", int, 1, 1000),
}  # fmt: skip
UNDERSTOOD = "--n NEGATIVE, --w WIDTH, --h HEIGHT, --d SEED, --l GUIDANCE and --s STEPS"


@dataclass(frozen=True)
class Line:
    """A prompt of a file.

    Attributes:
        prompt: what to draw.
        values: what its flags say, by the fields of a shot.
        where: the file and the line, as errors say it.
    """

    prompt: str
    values: dict[str, Any] = field(default_factory=dict)
    where: str = ""


def read_prompts(file: Path) -> list[Line]:
    """The prompts of a UTF-8 file; blank lines and those that begin with # are passed over.

    Raises:
        RequestError: the file cannot be read, holds no prompt, or a flag in it is wrong.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RequestError(f"--prompts {file} cannot be read ({error.strerror}); name a text file.") from None
    except UnicodeDecodeError:
        raise RequestError(f"--prompts {file} is not UTF-8 text; save it as UTF-8.") from None
    found = [
        _line(line.strip(), f"{file}, line {number}")
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#")
    ]
    if not found:
        raise RequestError(f"--prompts {file} holds no prompt; write one a line.")
    return found


def _line(text: str, where: str) -> Line:
    prompt, *rest = re.split(r"(?:^|\s)--(?=[^\s-])", text)
    values: dict[str, Any] = {}
    for part in rest:
        letter, value = (*part.split(None, 1), "")[:2]
        if letter not in FLAGS:
            raise RequestError(f"{where}: there is no flag --{letter} in prompt files; they know {UNDERSTOOD}.")
        name, kind, least, most = FLAGS[letter]
        text = value.strip()
        values[name] = text if kind is str else _number(text, kind, least, most, f"{where}: --{letter}")
    if not prompt.strip():
        raise RequestError(f"{where}: there is no prompt before --{rest[0].partition(' ')[0]}; write it first.")
    return Line(prompt.strip(), values, where)


def _number(value: str, kind: type, least: float, most: float, who: str) -> float:
    try:
        number = kind(value)
    except ValueError:
        number = None
    if number is None or not least <= number <= most:  # not a number lies between nothing
        what = "a whole number" if kind is int else "a number"
        bounds = f"from {least:g} to {most:.10g}" if most < 1e9 else f"of at least {least:g}"
        raise RequestError(f"{who} must be {what} {bounds}, not {value or 'nothing'}.")
    return number
