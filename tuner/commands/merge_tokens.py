"""What `tuner merge` does with learned words: copies, renames and joins."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..adapters.merge_request import Config, check_out
from ..errors import RequestError
from .merge_page import page, size_of


def merge_tokens(config: Config, given: Sequence[tuple[Path, float]], alike: bool) -> None:
    """Write the words, and list them.

    Raises:
        RequestError: they are mixed with other adapters, have weights, or are asked for what words do not have.
    """
    if not alike:
        raise RequestError("Tokens and other adapters cannot be one file; give generate both, each by its --adapter.")
    weighed = next((path for path, weight in given if weight != 1), None)
    if weighed or config.method != "exact" or config.into or config.block:
        what = f"{weighed} is a token" if weighed else "These are tokens"
        raise RequestError(f"{what}, which has no weight, method or base to be baked into; leave that out.")
    check_out(config.out, folder=True)
    from ..adapters.joining import load, write

    tokens, out = load([path for path, _ in given], config.rename), Path(config.out)
    paths = write(tokens, out)
    rows = {token.name: f"{len(token.embedding.word)} vectors, from {token.path.name}" for token in tokens}
    if config.json:
        told = [
            {"token": token.name, "vectors": len(token.embedding.word), "from": str(token.path)} for token in tokens
        ]
        print(json.dumps({"files": [str(path) for path in paths], "tokens": told}, indent=2, ensure_ascii=False))
        return
    joined = len(tokens) > 1 and len(paths) == 1
    headline = f"One token of {len(tokens)}" if joined else f"{len(paths)} token{'s' * (len(paths) > 1)}"
    name = f"<{out.stem}>" if joined else tokens[0].name
    flags = " ".join(f"--adapter {shlex.quote(str(path))}" for path in paths)
    base = tokens[0].embedding.metadata.get("base", "BASE")
    elsewhere = "" if base == "emoji" else f" --base {shlex.quote(base)}"
    page(
        out,
        headline,
        {**rows, "size": size_of(out)},
        [],
        [f"tuner generate {shlex.quote(f'a {name}')} {flags}{elsewhere}"],
    )
