"""What an adapter learned of a subject, how well prompts still lead it, and what it cost other subjects.

Fidelity is likeness to the reference pictures in a network's features, as DreamBooth's authors measure it (Ruiz et al.
2023, arXiv:2208.12242, section 4: DINO, CLIP-I). Beside it stands what it cannot see: whether the picture is nearer to
the subject than to anything else, whether the rest of the prompt is still drawn, how much the pictures of one prompt
differ, and what has become of prompts that have nothing to do with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..bench import Bench, need, several
from ..evidence import POINTS, cosines, judged, line, texts, variety
from ..features import collect
from ..gallery import Gallery
from ..prompts import Prompt, common_words, read
from ..report import Line, Report, Table
from ..statistics import mean
from .prompts import grid

CONTEXTS = (
    "a photo of {}", "{} on a beach", "{} in the snow", "{} in a forest", "{} on a wooden table", "{} in a city street",
    "a painting of {}", "a pencil drawing of {}", "{} seen from above", "{} at night", "{} on a white background",
    "a close-up of {}",
)  # fmt: skip
OTHERS = (
    "a photo of a dog", "a photo of a cat", "a portrait of a woman", "a portrait of a man", "a red car in a street",
    "a bowl of fruit on a table", "a mountain lake at sunrise", "an old wooden house", "a bicycle against a wall",
    "a vase of flowers", "a city at night", "a plate of pasta", "a sailing boat on the sea", "a steam train",
    "a child flying a kite", "an oil painting of a landscape", "a wooden chair", "a cup of coffee", "a bookshelf",
    "a bird on a branch",
)  # fmt: skip


def evaluate(bench: Bench) -> Report:
    """Draw the subject in many contexts, and other things, with the adapter and without, at the same seeds.

    Raises:
        RequestError: there is no adapter, there are no reference pictures, or nothing says what the subject is called.
    """
    need(bench.held_against_a_base, "--suite subject compares before with after; give a run, or --adapter FILE.")
    need(bench.references is None, "--suite subject draws what it compares with; --against takes a base here.")
    references = references_of(bench)
    asked = contexts(bench, references)
    shots, words = _shots(bench, asked, bench.config.count)
    after, before = bench.after(shots), bench.before(shots)
    others = [Prompt(text) for text in bench.config.other or OTHERS]
    other_shots, other_words = _shots(bench, others, 1)
    others_after, others_before = bench.after(other_shots), bench.before(other_shots)

    lines = [*_fidelity(bench, words, references, (before, after), others_before)]
    lines += [*judged(bench, words, after, before), *texts(bench, words, after, before)]
    lines += _cost(bench, other_words, others_after, others_before)
    grids = [grid(asked, bench.config.count, after, before), grid(others, 1, others_after, others_before, 16)]
    return bench.report(lines, [_ceiling(bench, references)], grids, [_other_words(others)])


def references_of(bench: Bench) -> Gallery:
    """The reference pictures: those of --images, else what the run was trained on."""
    from ...data.options import FolderOptions

    values = bench.judged.values
    if bench.config.images or not values.get("images"):
        need(bool(bench.config.images), "--suite subject needs pictures of the subject; name their folder by --images.")
        return Gallery.open(bench.config.images, "--images")
    return Gallery(
        FolderOptions(**{key: values[key] for key in FolderOptions.model_fields & values.keys()}), "--images"
    )


def contexts(bench: Bench, references: Gallery) -> list[Prompt]:
    """The prompts of the subject: {} in them is what it is called."""
    c = bench.config
    given = [*(read(c.prompts) if c.prompts else []), *map(Prompt, c.prompt)] or [Prompt(text) for text in CONTEXTS]
    if not any("{}" in prompt.text for prompt in given):
        return given
    name = c.subject or bench.judged.subject or common_words(references.captions)
    need(bool(name), "The captions do not say what the subject is called; say so by --subject TEXT.")
    return [Prompt(prompt.text.replace("{}", str(name)), prompt.category) for prompt in given]


def _shots(bench: Bench, prompts: Sequence[Prompt], count: int) -> tuple[list, list[str]]:
    shots = bench.shots((prompt.text for prompt in prompts), count)
    return shots, [shot.prompt for shot in shots]


def _fidelity(
    bench: Bench, words: Sequence[str], references: Gallery, drawn: tuple[list[Image.Image], list[Image.Image]],
    others: Sequence[Image.Image],
) -> list[Line]:  # fmt: skip
    """Likeness, recognition and variety."""
    eye = bench.eyes[0]
    before, after, own = (collect(eye, pictures) for pictures in (*drawn, references))
    name = eye.name
    likeness = [cosines(table, own).mean(axis=1) for table in (after, before)]
    about = f"Mean cosine with the {len(references)} reference pictures."
    found = [line(f"likeness-{name}", words, *likeness, better="higher", about=about)]
    about = f"Share of pictures whose nearest picture is a reference, and none of {len(others)} of other things"
    right = recognised(bench, (drawn[1], drawn[0]), references, others)
    both = ", to both judges." if bench.panel else "."
    found.append(line("subject recognised", words, *right, better="higher", about=about + both, margin=POINTS))
    if bench.config.count > 1:
        (values, owners), (values_before, _) = variety(after, words), variety(before, words)
        about = "1 - cosine between pictures of one prompt: 0 where all are the same."
        found.append(line(f"variety-{name}", owners, values, values_before, about=about))
    return found


def recognised(
    bench: Bench, sets: Sequence[Sequence[Image.Image]], own: Sequence[Image.Image], others: Sequence[Image.Image]
) -> list[np.ndarray]:
    """Whether the nearest of each picture is one of the subject's own, in every judge's features: booleans, by set."""
    right = [np.ones(len(pictures), dtype=bool) for pictures in sets]
    for eye in bench.eyes:
        known, strange = collect(eye, own), collect(eye, others)
        for so_far, pictures in zip(right, sets, strict=True):
            seen = collect(eye, pictures)
            so_far &= cosines(seen, known).max(axis=1) > cosines(seen, strange).max(axis=1)
    return right


def _cost(
    bench: Bench, words: Sequence[str], after: Sequence[Image.Image], before: Sequence[Image.Image]
) -> list[Line]:
    """What became of other prompts."""
    ours, theirs = collect(bench.network, after), collect(bench.network, before)
    apart = 1 - np.diag(cosines(ours, theirs))
    about = "1 - cosine of before and after, at the same seeds, of prompts that do not name the subject."
    lines = [line(f"drift of others-{bench.network.name}", words, apart, about=about)]
    lines += map(_of_others, judged(bench, words, after, before))
    return [*lines, *map(_of_others, texts(bench, words, after, before))]


def _of_others(one: Line) -> Line:
    return one.named(f"others: {one.figure.name}")


def _ceiling(bench: Bench, references: Gallery) -> Table:
    """What the reference pictures themselves reach: the likeness of each to the others."""
    own = collect(bench.eyes[0], references)
    near = cosines(own, own)
    if len(own) < 2:
        return Table("What can be reached", ("", "likeness"), ())
    alike = (near.sum(axis=1) - 1) / (len(own) - 1)
    row = ("reference pictures, each to the others", mean(alike, f"likeness-{bench.eyes[0].name}"))
    return Table("What can be reached", ("", "likeness"), (row,))


def _other_words(others: Sequence[Prompt]) -> str:
    return f"Other things, {len(others)} prompts, a picture each: {several([prompt.text for prompt in others])}."
