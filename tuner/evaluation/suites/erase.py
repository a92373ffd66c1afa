"""Whether what an adapter takes out is gone, however it is asked for, and what became of everything else.

What is asked: the target's own prompts, other ways to ask for it and compositions, what stands in its place, its
nearest neighbours and everything else (effectiveness and retention as in UnlearnCanvas, Zhang et al. 2024,
arXiv:2402.11846); before and after at the same seeds. Neighbours are what the base's own text encoder takes to be most
like it: of "grumpy cat" other cats, and of a caption first the things that it names. Distances are from pictures of
everything else at other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from ...data.pairs import Concept
from ...models.latent_diffusion import recommended
from ...sampling.shots import Shot
from ..bench import Bench, need
from ..erased import CONTEXTS, Erased, Sight
from ..evidence import POINTS, cosines, distances, judged, line, right_in, texts
from ..features import collect
from ..prompts import Prompt, read
from ..report import Line, Report, Table
from ..statistics import Figure, share
from .prompts import grid
from .subject import OTHERS

NEAR, LIKE = 5, 20  # neighbours of a target, and what comes after these
APART = 1000  # from the seeds of pictures to those of what their distances are from
Pictures = Sequence[Image.Image]
GONE = "Share of the pictures in which any judge sees a target."
OWN = "Share of the pictures whose nearest, of all that the base drew of what is to stay, is of the same prompt."


class Part:
    """Prompts with their pictures, after and before."""

    def __init__(self, bench: Bench, prompts: Sequence[Prompt], count: int) -> None:
        self.prompts, self.count = prompts, count
        self.shots = bench.shots((prompt.text for prompt in prompts), count)
        self.words = [shot.prompt for shot in self.shots]
        self.before, self.after = bench.before(self.shots), bench.after(self.shots)

    def __len__(self) -> int:
        return len(self.words)

    @property
    def drawn(self) -> dict[Shot, Image.Image]:
        """What the base drew."""
        return dict(zip(self.shots, self.before, strict=True))


def evaluate(bench: Bench) -> Report:
    """Draw targets, anchors, neighbours and other things, with the adapter and without, at the same seeds.

    Raises:
        RequestError: no adapter says that it takes anything out, or there is nothing to hold it against.
    """
    c = bench.config
    need(bench.held_against_a_base, "--suite erase compares before with after; give a run, or --adapter FILE.")
    need(bench.references is None, "--suite erase draws what it compares with; --against takes a base here.")
    erased = Erased.of(bench)
    given = [*(read(c.prompts) if c.prompts else []), *map(Prompt, _fitting(bench, erased))]
    target = Part(bench, erased.prompts(given), c.count)
    aside = _part(bench, erased.aside(given), len(target) / 2)
    anchor = _part(bench, erased.prompts(given, "anchor"), len(target) / 4)
    other = [text for text in c.other or OTHERS if not erased.concerns(text, bench.asked(text).subject)]
    need(bool(other), "Every --other names a target or what stands in its place; name something else.")
    others = Part(bench, list(map(Prompt, other)), 1)
    neighbours = _nearest(bench, erased, others.prompts)
    lines = [prompt for its in neighbours.values() for prompt in its]
    each = len(target) / 4 / len(erased.concepts)  # of a neighbour, as many of one target as of one of many
    near = Part(bench, lines, math.ceil(each * len(neighbours) / len(lines)))
    sight = Sight(bench, erased, target.drawn, anchor.drawn, others.drawn | near.drawn)
    known = anchor.drawn | near.drawn | others.drawn
    found = [*_gone(sight, target, aside, anchor), *_kept(bench, "anchor", anchor, known)]
    found += [*_kept(bench, "neighbours", near, known), *_kept(bench, "others", others, known)]
    if bench.clip is not None:
        found += [
            one.named(f"others: {one.figure.name}") for one in texts(bench, others.words, others.after, others.before)
        ]
    if erased.kind == "instance":
        after = _nearest(bench, erased, others.prompts, NEAR, LIKE).keys() - neighbours.keys()
        found += _of(bench, "others most like it", others, after.__contains__)
    named = {bench.asked(text).subject for text in bench.judged.values.get("retain", ())}
    found += _of(bench, "others not named", others, lambda subject: bool(named) and subject not in named)
    found += [*_moved(bench, others), *distances(bench, _elsewhere(bench, others), others.after, others.before)]
    grids = [grid(it.prompts, it.count, it.after, it.before, 16) for it in (target, aside, anchor, near, others)]
    return bench.report(found, list(_by_neighbour(bench, near, neighbours, known)), grids, _notes(erased, sight))


def _fitting(bench: Bench, erased: Erased) -> list[str]:
    """The prompts that are given, without those that a base brings along where what is taken out is no thing."""
    own = [] if erased.kind == "instance" else recommended(bench.judged.base, "evaluate").get("prompt", [])
    return [text for text in bench.config.prompt if text not in own]


def _part(bench: Bench, prompts: Sequence[Prompt], pictures: float) -> Part:
    """At least so many pictures of some prompts, as many of each."""
    return Part(bench, prompts, math.ceil(pictures / len(prompts)))


def _gone(sight: Sight, target: Part, aside: Part, anchor: Part) -> Iterator[Line]:
    """How often a target is seen: asked for, asked for otherwise, not asked for."""

    def seen(name: str, part: Part, about: str) -> Line:
        values = [sight.present(pictures, part.shots) for pictures in (part.after, part.before)]
        return line(name, part.words, *values, better="lower", about=f"{GONE} {about}", margin=POINTS)

    yield seen("target present", target, "It is asked for by name.")
    yield seen("target present otherwise", aside, "It is asked for in other ways, and in compositions.")
    yield seen("target in anchor", anchor, "What is asked for is what stands in its place.")
    chances = [sight.chance(pictures) for pictures in (target.after, target.before)]
    if chances[0] is not None and chances[1] is not None:
        about = "What probability the judges give the targets, in the mean."
        yield line("target's probability", target.words, chances[0], chances[1], better="lower", about=about)
    values = [sight.instead(pictures, target.shots) for pictures in (target.after, target.before)]
    about = "Share of the pictures in which all judges see what is to stand in the target's place."
    yield line("anchor instead", target.words, *values, better="higher", about=about, margin=POINTS)


def _kept(bench: Bench, who: str, part: Part, known: Mapping[Shot, Image.Image]) -> Iterator[Line]:
    """Whether prompts still give what they ask for; where no judge knows that, what the base drew of them."""
    for one in judged(bench, part.words, part.after, part.before):
        yield one.named(f"{who}: {one.figure.name}")
    if bench.panel is None:
        sets = [_own(bench, part, pictures, known) for pictures in (part.after, part.before)]
        yield line(f"{who} kept", part.words, *sets, better="higher", about=OWN, margin=POINTS)


def _own(bench: Bench, part: Part, pictures: Pictures, known: Mapping[Shot, Image.Image]) -> np.ndarray:
    """Whether each picture is nearest to one that the base drew of the same prompt, to every eye: booleans (N,)."""
    labels, drawn = np.array([shot.prompt for shot in known]), list(known.values())
    near = [cosines(collect(eye, pictures), collect(eye, drawn)).argmax(axis=1) for eye in bench.eyes]
    return np.all([labels[rows] == np.array(part.words) for rows in near], axis=0)


def _moved(bench: Bench, part: Part) -> Iterator[Line]:
    """How far pictures of other things have moved, at the same noise."""
    ours, theirs = (collect(bench.network, pictures) for pictures in (part.after, part.before))
    apart = 1 - np.diag(cosines(ours, theirs))
    yield line(f"drift of others-{bench.network.name}", part.words, apart, about="1 - cosine of before and after.")


def _of(bench: Bench, who: str, part: Part, wanted: Callable[[str], bool]) -> Iterator[Line]:
    """Whether some of the prompts still give what they ask for: those of a subject that is wanted."""
    rows = [i for i, text in enumerate(part.words) if wanted(bench.asked(text).subject)]
    if 0 < len(rows) < len(part):
        after, before = ([pictures[i] for i in rows] for pictures in (part.after, part.before))
        for one in judged(bench, [part.words[i] for i in rows], after, before):
            yield one.named(f"{who}: {one.figure.name}")


def _elsewhere(bench: Bench, part: Part) -> Pictures:
    """What the base draws of the same prompts at other seeds."""
    shots = bench.shots((prompt.text for prompt in part.prompts), part.count)
    return bench.before([replace(shot, seed=shot.seed + APART) for shot in shots])


def _nearest(
    bench: Bench, erased: Erased, others: Sequence[Prompt], first: int = 0, count: int = NEAR
) -> dict[str, list[Prompt]]:
    """For each target what its own name names, and what the base reads most like it, with prompts of that.

    So many of each target, nearest first, but for the first ones; where judges look, of what they know. Of a style
    these are other styles.
    """
    known = {subject: [it] for it in others if (subject := bench.asked(it.text).subject)}
    found = known or {it.text: [it] for it in others}
    if erased.kind == "style" and bench.panel is not None:
        styles = [name for name in bench.panel.trusted("style") if not erased.concerns(name) and name != "plain"]
        lines = CONTEXTS["style"]
        found = {name: [Prompt(lines[(i + k) % len(lines)].replace("{}", name)) for k in range(0, len(lines), 2)]
                 for i, name in enumerate(styles)}  # fmt: skip
    names, targets = list(found), [it.target for it in erased.concepts]
    read = bench.read_by_base([*targets, *names])
    near = cosines(*np.split(read - read[len(targets) :].mean(axis=0), [len(targets)]))
    near += [[2.0 * Concept(name, "").named(target) for name in names] for target in targets]  # more than any cosine
    rows = np.argsort(-near, axis=1, kind="stable")[:, first : first + count].T.ravel().tolist()
    return {names[row]: found[names[row]] for row in rows}


def _by_neighbour(
    bench: Bench, near: Part, neighbours: Mapping[str, Sequence[Prompt]], known: Mapping[Shot, Image.Image]
) -> Iterator[Table]:
    """How often each neighbour is right, before and after; the one that lost most first. A style's are styles."""
    asked = [bench.asked(text) for text in near.words]
    aspect = "style" if all(one.style for one in asked) else "subject"
    title, counts = f"{aspect} right", [bool(getattr(one, aspect)) for one in asked]
    right: list[Sequence[bool]]
    if bench.panel is None:
        title, counts = "kept", [True] * len(asked)
        right = [_own(bench, near, pictures, known).tolist() for pictures in (near.before, near.after)]
    else:
        right = [right_in(bench, asked, pictures)[aspect] for pictures in (near.before, near.after)]
    rows: list[tuple[str, Figure, Figure]] = []
    for name, prompts in neighbours.items():
        its = {prompt.text for prompt in prompts}
        index = [i for i, text in enumerate(near.words) if text in its and counts[i]]
        if index:
            rows.append((name, *(share([part[i] for i in index], title) for part in right)))  # type: ignore[arg-type]
    rows.sort(key=lambda row: row[2].value - row[1].value)
    yield Table("Its nearest neighbours", ("", "before", "after"), tuple(rows), "The one that lost most stands first.")


def _notes(erased: Erased, sight: Sight) -> list[str]:
    said = ", ".join(f"{it.target} -> {it.anchor}" for it in erased.concepts)
    found = [f"Taken out: {said} ({erased.kind})."]
    for side, names in sight.names.items():
        if not names:
            found.append(
                f"No judge is asked for the {side}: it is seen where a picture is nearest to what the base drew of it."
            )
    return found
