"""Prompts with their categories: text files, tables, and data sets of the Hub such as DrawBench and PartiPrompts."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..sampling.prompt_files import read_prompts

PROMPTS, CATEGORIES = ("prompt", "prompts", "caption", "text"), ("category", "categories", "kind")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
LITTLE = {"a", "an", "the", "of", "on", "in", "at", "with", "and", "by", "to", "is"}


@dataclass(frozen=True)
class Prompt:
    """What to draw, and to which category its results count; "" is none."""

    text: str
    category: str = ""


def read(source: str) -> list[Prompt]:
    """The prompts of a file (.txt, .csv, .tsv, .jsonl) or of a data set of the Hub.

    A table has a column `prompt` and may have one `category`; DrawBench's and PartiPrompts' own columns are those.

    Raises:
        RequestError: it cannot be read, or holds no prompt.
    """
    file = Path(source)
    if not file.exists() and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) and not file.parent.is_dir():
        return _of_rows(_hub(source), source)
    kind = file.suffix.lower()
    if kind not in (*SEPARATORS, ".jsonl"):
        lines = read_prompts(file)
        flagged = next((line for line in lines if line.values), None)
        if flagged:
            raise RequestError(f"{flagged.where}: evaluation draws all prompts alike; leave the -- flags out.")
        return [Prompt(line.prompt) for line in lines]
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if kind == ".jsonl" else list(csv.DictReader(text.splitlines(), delimiter=SEPARATORS[kind]))
        )  # fmt: skip
    except (OSError, ValueError, csv.Error) as error:
        raise RequestError(f"--prompts {source} cannot be read as a table ({error}).") from None
    return _of_rows(rows, source)


def _of_rows(rows: Iterable[Mapping[str, Any]], source: str) -> list[Prompt]:
    found = []
    for row in rows:
        if not isinstance(row, Mapping):
            raise RequestError(f"--prompts {source} is no table of objects; each line needs a `prompt`.")
        by_name = {str(name).strip().lower(): value for name, value in row.items()}
        text = next((by_name[name] for name in PROMPTS if by_name.get(name)), "")
        category = next((by_name[name] for name in CATEGORIES if by_name.get(name)), "")
        if str(text).strip():
            found.append(Prompt(" ".join(str(text).split()), str(category).strip()))
    if not found:
        raise RequestError(f"--prompts {source} holds no prompt; it needs a column `prompt`, and may have `category`.")
    return found


def _hub(name: str) -> Iterable[Mapping[str, Any]]:
    from datasets import load_dataset

    try:
        tables = load_dataset(name)
    except Exception as error:  # no network, no such data set, one that wants to run code
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise RequestError(f"--prompts {name} could not be had from the Hub: {reason}.") from error
    return next(iter(tables.values()))


def common_words(captions: Sequence[str]) -> str:
    """The longest run of words that all captions have, without little words at its ends; "" where there is none.

    An article before it is kept: "a teddy bear".
    """
    rows = [re.findall(r"[^\s,.;:]+", text) for text in captions]
    if not rows:
        return ""
    spaced = [f" {' '.join(row)} " for row in rows]
    best: list[str] = []
    for start in range(len(rows[0])):
        for end in range(start + 1, len(rows[0]) + 1):
            run = rows[0][start:end]
            core = _core(run)
            if len(core) > len(_core(best)) and all(f" {' '.join(run)} " in text for text in spaced):
                best = run
    core = _core(best)
    first = best.index(core[0]) if core else 0
    article = best[first - 1 : first] if first and best[first - 1].lower() in ("a", "an", "the") else []
    return " ".join([*article, *core])


def _core(run: Sequence[str]) -> list[str]:
    kept = [i for i, word in enumerate(run) if word.lower() not in LITTLE]
    return list(run[kept[0] : kept[-1] + 1]) if kept else []
