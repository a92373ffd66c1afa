"""Folders of pictures from the world: any number of scenes with their words, and the ready-made ones to train on."""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import RequestError
from ..files import replacing, write_text
from . import emoji, world
from .mixture import mixture as mixed_scenes

SEED, EACH, SIDE = 7005, 12, 128  # of the ready-made folders


def subjects_of(only: Sequence[str], without: Sequence[str]) -> tuple[str, ...]:
    """The subjects that are asked for: `only` these, or those of the base; less those `without`.

    Raises:
        RequestError: the world has no such picture, or none is left.
    """
    for name in (*only, *without):
        if name not in emoji.table():
            close = difflib.get_close_matches(name, emoji.table(), 1)
            hint = f"did you mean `{close[0]}`?" if close else "datasets/emoji/metadata.jsonl lists them."
            raise RequestError(f"The picture world has no `{name}`; {hint}")
    left = tuple(name for name in only or emoji.KNOWN if name not in without)
    if not left:
        raise RequestError("--without leaves no subject; leave one out less, or name more with --only.")
    return left


def write_world(
    out: Path,
    count: int,
    seed: int = 0,
    size: int = 64,
    subjects: Sequence[str] = emoji.KNOWN,
    style: str = "",
    mixture: bool = False,
) -> None:
    """Scenes as 00000.png, 00001.png, ... and metadata.jsonl with their words; scene i depends on (seed, i) alone.

    `mixture`: scenes of every kind and phrasing (`mixture.mixed`), not single subjects alone.

    Raises:
        RequestError: there is no such style, it is asked for in a mixture, or `out` already holds something.
    """
    if style and style not in world.STYLES:
        raise RequestError(f"--style {style}: there is no such style; take one of {', '.join(world.STYLES)}.")
    if style and mixture:
        raise RequestError(f"--style {style}: a mixture is in all styles; leave one of the two out.")
    styles = (style,) if style else world.STYLES
    scenes = mixed_scenes(seed, count, subjects) if mixture else world.scenes(seed, count, subjects, styles=styles)
    write_scenes(out, scenes, size)


def write_scenes(out: Path, scenes: Iterable[world.Scene], size: int = 64) -> None:
    """Scenes as files. Raises RequestError where `out` already holds something."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RequestError(f"{out} already holds something; name a new folder.")
    rows = []
    with replacing(out) as part:
        part.mkdir()
        for i, it in enumerate(scenes):
            name = f"{i:05d}.png"
            world.draw(it, size).save(part / name)
            rows.append(json.dumps({"file_name": name, "text": world.caption(it)} | facts(it)) + "\n")
        write_text(part / "metadata.jsonl", "".join(rows))


def facts(it: world.Scene) -> dict[str, str | int]:
    """What a scene shows, for metadata.jsonl: "" or 1 where a key does not apply. `size` is the word that says it."""
    return {
        "subject": it.subject, "background": it.background, "style": it.style, "kind": world.kind(it),
        "texture": it.texture, "size": it.sized, "count": it.count, "relation": it.relation, "other": it.other,
    }  # fmt: skip


def ready_made(number: int) -> list[world.Scene]:
    """The plain scenes of held-out subject `number`: each on a background of its own, in an order of its own."""
    name = emoji.HELD_OUT[number]
    order = np.random.default_rng((SEED, number)).permutation(len(world.COLOURS))
    drawn = [world.scene(np.random.default_rng((SEED, number, i)), (name,), styles=("plain",)) for i in range(EACH)]
    return [replace(it, background=list(world.COLOURS)[n]) for it, n in zip(drawn, order[:EACH], strict=True)]


def write_ready_made(out: Path) -> list[Path]:
    """A folder for each held-out subject: 01.png, 01.txt, ... of 128 x 128 pixels; return the folders."""
    folders = [out / name.replace(" ", "_") for name in emoji.HELD_OUT]
    for number, folder in enumerate(folders):
        with replacing(folder) as part:
            part.mkdir()
            for i, it in enumerate(ready_made(number), start=1):
                world.draw(it, SIDE).save(part / f"{i:02d}.png", optimize=True)
                (part / f"{i:02d}.txt").write_text(world.caption(it) + "\n", encoding="utf-8")
    return folders
