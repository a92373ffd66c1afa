"""Trains the bundled contrastive judge (`tuner.evaluation.contrast`) on the picture world: makers' code, no recipe.

Every loss is a choice: which of some texts is true of a picture, as the judge will be asked. The texts are those of all
classes; the captions of the batch and false ones, each of which differs from a true one in one thing; and short ones of
two subjects, in the right places and in wrong ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..evaluation.contrast import ContrastiveJudge, vocabulary
from ..evaluation.relations import OPPOSITE, Related, moved, relation_text
from ..randomness import generator
from . import emoji, world
from .lessons import PHRASINGS, SUBJECTS, lessons, pictures
from .soften import soften
from .teach import teach
from .words import plural

TRAIN, TEST = 7101, 7102  # first words of the seeds: other ones than the classifier's
STEPS = 2200
SMOOTHING = 0.05
RELATED = 1.7  # how much more often pictures of two subjects are shown than others
FALSE = 2  # false captions of a picture
SHARPEST = 60.0


class Said(NamedTuple):
    """A text, and the subjects that it names."""

    text: str
    names: frozenset[str]


def names_of(it: world.Scene) -> frozenset[str]:
    """The subjects of a scene; one that the judge is not taught is "?", like every other of those."""
    return frozenset(name if name in SUBJECTS else "?" for name in (it.subject, it.other) if name)


def another(rng: np.random.Generator, names: Sequence[str], than: str) -> str:
    """One of the names; mostly a cat instead of a cat."""
    pool = emoji.CATS if than in emoji.CATS and names == SUBJECTS and rng.random() < 0.7 else names
    rest = [name for name in pool if name != than]
    return rest[int(rng.integers(len(rest)))]


def counterfeit(rng: np.random.Generator, it: world.Scene) -> world.Scene:
    """A scene whose caption is false of a picture of `it`, in one thing."""
    subject = replace(it, subject=another(rng, SUBJECTS, it.subject))
    found = [subject, world.in_style(it, another(rng, world.STYLES, it.style))]
    if it.background:
        found.append(replace(it, background=another(rng, tuple(world.COLOURS), it.background)))
        found.append(replace(it, texture=another(rng, world.TEXTURES[1:], it.texture)))
    if it.sized:
        found.append(replace(it, sized=another(rng, tuple(world.SIZES), it.sized)))
    if it.other:
        found.append(replace(it, other=another(rng, SUBJECTS, it.other)))
        found += [replace(it, relation=OPPOSITE[it.relation])] * 2
    else:
        found.append(replace(it, count=1 + (it.count + int(rng.integers(2))) % 3))
    chosen = found[int(rng.integers(len(found)))]
    return subject if world.caption(chosen) == world.caption(it) else chosen


def false_pairs(rng: np.random.Generator, it: Related) -> Iterator[Related]:
    """Turned round, along the other axis, and with another subject in either place, twice each."""
    yield it._replace(relation=OPPOSITE[it.relation])
    yield from moved(it)
    for _ in range(2):
        yield it._replace(first=another(rng, SUBJECTS, it.first))
        yield it._replace(second=another(rng, SUBJECTS, it.second))


def choice(judge: ContrastiveJudge, seen: Tensor, true: list[Said], false: list[list[Said]]) -> Tensor:
    """Cross entropy of each picture's true text among all; those of other pictures that name what it shows are not
    asked about. Both ways: of texts for a picture, of pictures for a true text. seen: (N, D) times the scale."""
    said = true + [one for row in false for one in row]
    owners = [*range(len(true)), *(i for i, row in enumerate(false) for _ in row)]
    logits = seen @ judge.texts([one.text for one in said]).T
    shared = [
        [owner != i and bool(one.names & mine.names) for one, owner in zip(said, owners, strict=True)]
        for i, mine in enumerate(true)
    ]
    logits = logits.masked_fill(torch.tensor(shared), -1e4)
    right = torch.arange(len(true))
    return functional.cross_entropy(logits, right) + 0.5 * functional.cross_entropy(logits[:, : len(true)].T, right)


def classes_loss(judge: ContrastiveJudge, seen: Tensor, batch: list[world.Scene], ruined: Tensor) -> Tensor:
    """The choice among the texts of the subjects, the backgrounds, the styles and the counts.

    Two subjects share the truth; strangers and ruined pictures are pulled towards an even distribution.
    """
    names, colours = {name: i for i, name in enumerate(SUBJECTS)}, list(world.COLOURS)
    subject = torch.full((len(batch), len(SUBJECTS)), SMOOTHING / len(SUBJECTS))
    other = torch.full((3, len(batch)), -1)  # background, style, count; -1: not asked
    for i, it in enumerate(batch):
        shown = [] if ruined[i] else [names[name] for name in (it.subject, it.other) if name in names]
        for name in shown:
            subject[i, name] += (1 - SMOOTHING) / len(shown)
        other[0, i] = colours.index(it.background) if it.background else -1
        if not ruined[i]:
            other[1, i], other[2, i] = world.STYLES.index(it.style), -1 if it.other else it.count - 1
    subject /= subject.sum(dim=1, keepdim=True)
    texts = judge.class_texts()
    found = (seen @ judge.texts([text for kind in texts for text in kind]).T).split([len(kind) for kind in texts], 1)
    loss = functional.cross_entropy(found[0], subject)
    for weight, logits, target in zip((0.5, 1.0, 0.3), found[1:], other, strict=True):
        loss = loss + weight * functional.cross_entropy(logits, target, ignore_index=-1, label_smoothing=SMOOTHING)
    return loss


def captions_loss(judge: ContrastiveJudge, seen: Tensor, batch: list[world.Scene], rng: np.random.Generator) -> Tensor:
    """The choice among captions."""
    true = [Said(world.caption(it), names_of(it)) for it in batch]
    wrong = [[counterfeit(rng, it) for _ in range(FALSE)] for it in batch]
    return choice(judge, seen, true, [[Said(world.caption(it), names_of(it)) for it in row] for row in wrong])


def relations_loss(judge: ContrastiveJudge, seen: Tensor, batch: list[world.Scene], rng: np.random.Generator) -> Tensor:
    """The choice among short texts, of pictures of two subjects."""
    rows = [i for i, it in enumerate(batch) if it.other]
    if not rows:
        return seen.new_zeros(())
    asked = [Related(batch[i].subject, batch[i].relation, batch[i].other) for i in rows]
    true, *false = (
        [Said(relation_text(it), frozenset((it.first, it.second))) for it in those]
        for those in (asked, *([*false_pairs(rng, it)] for it in asked))
    )
    return choice(judge, seen[rows], true, false)


def new(seed: int) -> ContrastiveJudge:
    """An untrained judge that knows every word of the captions of its subjects."""
    frames = [
        world.caption(world.Scene("", colour, style, phrasing=i))
        for colour in (*world.COLOURS, "") for style in world.STYLES for i in range(PHRASINGS)
    ]  # fmt: skip
    frames += [*world.TEXTURES, *world.SIZES, *world.RELATIONS, "to the", "two three"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = ContrastiveJudge((), SUBJECTS, tuple(world.COLOURS), world.STYLES)
        own = [text for kind in judge.class_texts() for text in kind]
        words = vocabulary([*frames, *own, *map(plural, SUBJECTS)])
        return ContrastiveJudge(words, SUBJECTS, tuple(world.COLOURS), world.STYLES)


def train(
    steps: int = STEPS,
    seed: int = 1,
    count: int = 18_000,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    matrices_rate: float = 4e-3,
    keep: Path | None = None,
    say: Callable[[str], None] = print,
) -> ContrastiveJudge:
    """A new judge from `steps` steps over `count` scenes: about half an hour on one idle CPU core."""
    scenes = list(lessons(TRAIN, seed, count))
    drawn = pictures(scenes)
    say(f"drew {count} scenes")
    often = torch.tensor([RELATED if it.other else 1.0 for it in scenes])
    judge = new(seed)
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # by a quarter faster

    def loss(step: int) -> Tensor:
        random, rng = generator("contrast", seed, step), np.random.default_rng((TRAIN, seed, 0, step))
        rows = torch.multinomial(often, batch_size, replacement=True, generator=random)
        batch = [scenes[i] for i in rows.tolist()]
        fixed = torch.tensor([bool(it.other) for it in batch])
        pixels, ruined = soften(drawn[rows].float() / 127.5 - 1, random, fixed)
        seen = judge.scale.exp().clamp(max=SHARPEST) * judge.features(pixels)
        whole = [it for it, lost in zip(batch, ruined.tolist(), strict=True) if not lost]
        of_texts = captions_loss(judge, seen[~ruined], whole, rng), relations_loss(judge, seen[~ruined], whole, rng)
        return classes_loss(judge, seen, batch, ruined) + 0.5 * sum(of_texts)

    teach(judge, loss, steps, learning_rate, keep, say, matrices_rate, ("layers.", "stem."))
    return judge.half().float().eval().requires_grad_(False)  # what will be in the file is what is measured
