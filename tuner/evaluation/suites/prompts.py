"""How well pictures follow their prompts, category by category, and how far they are from real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from ..bench import Bench, need
from ..evidence import by_category, cosines, distances, judged, line, right_in, texts
from ..features import collect
from ..prompts import Prompt, read
from ..report import Grid, Line, Report, Table


def evaluate(bench: Bench) -> Report:
    """Agreement of texts and pictures; against a base also what changed, against pictures the distances from them.

    Raises:
        RequestError: there are no prompts, or finished pictures have no captions.
    """
    if bench.finished is not None:
        return _finished(bench, bench.finished.captions, bench.finished)
    asked = prompts_of(bench)
    shots = bench.shots(prompt.text for prompt in asked)
    words = [shot.prompt for shot in shots]
    categories = [prompt.category for prompt in asked for _ in range(bench.config.count)]
    after = bench.after(shots)
    before = bench.before(shots) if bench.held_against_a_base else None
    lines = [*judged(bench, words, after, before), *texts(bench, words, after, before)]
    if before is not None:
        lines.append(_moved(bench, words, after, before))
    if bench.references is not None:
        lines += distances(bench, bench.references, after, before)
    tables = list(_tables(bench, words, categories, after))
    return bench.report(lines, tables, [grid(asked, bench.config.count, after, before)])


def prompts_of(bench: Bench) -> list[Prompt]:
    """The prompts of --prompts and --prompt, else the base's own: {} in them is the subject, where there is one."""
    c = bench.config
    given = [*(read(c.prompts) if c.prompts else []), *map(Prompt, c.prompt)]
    name = c.subject or bench.judged.subject
    told = [replace(one, text=one.text.replace("{}", name)) for one in given if name or "{}" not in one.text]
    found = told or [Prompt(text) for text in c.other]
    need(bool(found or not given), "Nothing says what {} stands for in the prompts; say so by --subject TEXT.")
    need(bool(found), f"--suite {bench.suite} needs prompts; name a file by --prompts, or give one by --prompt.")
    return found


def grid(
    asked: Sequence[Prompt],
    count: int,
    after: Sequence[Image.Image],
    before: Sequence[Image.Image] | None,
    most: int = 24,
) -> Grid:
    """Before and after beside each other, a row a prompt, at the same seeds; of many prompts some, evenly taken."""
    step = max(1, -(-len(asked) // most))
    rows, each = [], min(count, 4)
    for i in range(0, len(asked), step):
        parts = [part[i * count : i * count + each] for part in (before, after) if part is not None]
        rows.append((asked[i].text, tuple(picture for part in parts for picture in part)))
    title = "Before and after, at the same seeds" if before is not None else "Pictures"
    note = f"Every {step}th prompt of {len(asked)}, taken by its number alone." if step > 1 else "All prompts."
    return Grid(title, ("before", "after") if before is not None else (), tuple(rows), note)


def _finished(bench: Bench, captions: Sequence[str], pictures: Sequence[Image.Image]) -> Report:
    if bench.config.prompts:
        captions = [prompt.text for prompt in read(bench.config.prompts)]
        need(len(captions) == len(pictures), f"--prompts names {len(captions)} prompts, and --pictures holds "
             f"{len(pictures)} pictures; one for each is needed, in the order of the files' names.")  # fmt: skip
    need(all(captions), "--pictures holds pictures without captions; put captions beside them, or give --prompts.")
    lines = [*judged(bench, captions, pictures), *texts(bench, captions, pictures)]
    if bench.references is not None:
        lines += distances(bench, bench.references, pictures)
    return bench.report(lines, list(_tables(bench, captions, [""] * len(captions), pictures)))


def _moved(bench: Bench, words: Sequence[str], after: Sequence[Image.Image], before: Sequence[Image.Image]) -> Line:
    """How far the same seeds have moved."""
    ours, theirs = collect(bench.network, after), collect(bench.network, before)
    values = [1 - float(cosines(ours[i : i + 1], theirs[i : i + 1])[0, 0]) for i in range(len(ours))]
    about = "1 - cosine of the features of the two pictures of a prompt and a seed."
    return line(f"drift-{bench.network.name}", words, values, about=about)


def _tables(bench: Bench, words: Sequence[str], categories: Sequence[str], after: Sequence[Image.Image]) -> list[Table]:
    """Results for each category; where there are none, nothing."""
    if len(set(categories)) < 2:
        return []
    found, texts_ = [], [bench.read(prompt) for prompt in words]
    if bench.clip is not None:
        found.append(by_category("By category", bench.clip.scores(after, texts_), words, categories, "CLIP score"))
    if bench.panel is not None:
        values = bench.panel.agreement(after, texts_)
        found.append(by_category("By category, text", values, words, categories, "text agreement-judge"))
        asked = [bench.asked(prompt) for prompt in words]
        rows = [i for i, one in enumerate(asked) if one.subject]
        if rows:
            right = right_in(bench, asked, after)["subject"]
            named, kinds = ([table[i] for i in rows] for table in (words, categories))
            hits = [right[i] for i in rows]
            found.append(by_category("By category, subject", hits, named, kinds, "subject right"))
    return found
