"""The page that says whether the figures of `tuner evaluate` can be believed, and what `generate` keeps of a picture.

What is known to be worse must come out worse, in the figures that should suffer and in no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image, ImageFilter

from ..commands.show import Silent
from ..evaluation.bench import Bench, Judged
from ..evaluation.evidence import distances, judged, texts
from ..evaluation.features import collect, tensor
from ..evaluation.fidelity import psnr
from ..evaluation.panel import Panel
from ..evaluation.request import Config
from ..evaluation.sheet import grid
from ..models.architecture import Sizes, create
from ..models.latent_diffusion import LatentDiffusion
from ..sampling.drawing import draw
from ..sampling.enlarging import enlarge
from ..sampling.images import SEAM, Source
from ..sampling.shots import Shot
from . import world
from .figures import known_to
from .pages import GUIDANCE, SAMPLER, STEPS, cell, drawn, page, percent, table

REAL, OTHERS, SCENES, SMALL = 8401, 8402, 8403, 8404  # seeds of the scenes
HOLE, SHRUNK = 48, 32  # sides in pixels: of what is painted anew, and of what is enlarged
Pictures = list[Image.Image]


def of_judging(base: str, count: int, out: Path) -> str:
    """Draw `count` pictures of each kind; write out/judging.md and out/judging.png; the text."""
    bench = Bench("prompts", Judged("judging", base), Config(world=True, base=base), Silent())
    assert bench.panel is not None
    subjects = tuple(name for name in known_to(base) if name in bench.panel.trusted("subject"))
    scenes = [replace(it, phrasing=0) for it in world.scenes(REAL, count, subjects, styles=("plain",))]
    references = [world.draw(it) for it in world.scenes(OTHERS, count, subjects, styles=("plain",))]
    captions = [world.caption(it) for it in scenes]
    sets = _sets(base, scenes, captions)
    rows = [(name, *_figures(bench, pictures, words, references)) for name, (pictures, words) in sets.items()]
    head = ("pictures", "KID-judge", "precision", "recall", "subject right", "background right", "text agreement")
    parts = [
        f"{count} pictures a row, of {len(subjects)} subjects; distances from {count} other real scenes; {SAMPLER}, "
        f"{STEPS} steps, guidance {GUIDANCE:g}. In brackets the 95% interval, or ± the standard error.\n",
        table(head, rows), "## Painting into a picture, enlarging one\n",
        *_kept(bench.panel, LatentDiffusion.load(base), subjects, max(8, count // 5)),
    ]  # fmt: skip
    sheet = grid([pictures[:12] for pictures, _ in sets.values()], list(sets), cell=96)
    return page(out, "judging", "Whether to believe the judges", "judging", "\n".join(parts), sheet, "what was judged")


def _sets(base: str, scenes: Sequence[world.Scene], captions: list[str]) -> dict[str, tuple[Pictures, list[str]]]:
    """Pictures and the captions that they are held to."""
    seeds = range(len(captions))
    made = drawn(LatentDiffusion.load(base), captions, seeds)
    return {
        "real scenes": ([world.draw(it) for it in scenes], captions),
        "the base": (made, captions),
        "the base, blurred by 1 px": ([one.filter(ImageFilter.GaussianBlur(1)) for one in made], captions),
        "the base, captions shuffled": (made, _shuffled(captions)),
        "random weights": (drawn(create(Sizes(), world.vocabulary()), captions, seeds), captions),
    }


def _shuffled(captions: list[str]) -> list[str]:
    """Each picture is held to another's caption."""
    order = np.roll(np.random.default_rng(REAL).permutation(len(captions)), 1)
    places = np.empty(len(captions), dtype=int)
    places[order] = np.roll(order, 1)
    return [captions[i] for i in places]


def _figures(bench: Bench, pictures: Pictures, words: list[str], references: Pictures) -> list[str]:
    """The cells of a row."""
    lines = [*distances(bench, references, pictures), *judged(bench, words, pictures), *texts(bench, words, pictures)]
    found = {line.figure.name: line.figure for line in lines}
    names = (
        "KID-judge", "precision-judge", "recall-judge", "subject right", "background right", "text agreement-judge",
    )  # fmt: skip
    return [cell(found[name]) for name in names]


# -- what generate keeps -----------------------------------------------------------------------------------------------


def _kept(panel: Panel, model: LatentDiffusion, subjects: Sequence[str], count: int) -> list[str]:
    """Inpainting and upscaling, as tables."""
    inside, free, changed = _painted(panel, model, subjects, count)
    rows = [
        ("subject right, drawn freely", percent(free)), ("subject right, painted into a picture", percent(inside)),
        ("painted / free (at least 60% is asked for)", f"{fmean(inside) / fmean(free):.0%}"),
        (f"pixels changed farther than {SEAM} px from the mask", f"{changed}"),
    ]  # fmt: skip
    ours, bicubic, kept = _enlarged(panel, model, subjects, count)
    more = [
        ("confidence of both judges in the right subject, enlarged by `--upscale 2`", f"{fmean(ours):.3f}"),
        ("the same, bicubic", f"{fmean(bicubic):.3f}"),
        ("fidelity when shrunk again (at least 26 dB is asked for)", f"{fmean(kept):.1f} dB"),
    ]
    return [
        f"{count} pictures; a square of {HOLE} px of a real scene of another subject is painted anew, strength 1.\n",
        table(("painting", "value"), rows),
        f"{count} real scenes of {SHRUNK} px, enlarged to {2 * SHRUNK}, with their captions.\n",
        table(("enlarging", "value"), more),
    ]


def _painted(
    panel: Panel, model: LatentDiffusion, subjects: Sequence[str], count: int
) -> tuple[list[bool], list[bool], int]:
    """Whether both judges see the subject in the hole, and in free pictures; how many pixels changed that must not."""
    pipe = model.pipeline(SAMPLER)
    scenes = [replace(it, phrasing=0) for it in world.scenes(SCENES, count, subjects, styles=("plain",))]
    names, prompts = [it.subject for it in scenes], [world.caption(it) for it in scenes]
    start = (model.resolution - HOLE) // 2
    box = (start, start, start + HOLE, start + HOLE)
    mask = Image.new("L", (model.resolution,) * 2)
    mask.paste(255, box)
    away = np.asarray(mask.filter(ImageFilter.MaxFilter(2 * SEAM + 1))) == 0
    crops, changed = [], 0
    for i, (it, prompt) in enumerate(zip(scenes, prompts, strict=True)):
        original = world.draw(replace(it, subject=subjects[(subjects.index(it.subject) + 7) % len(subjects)]))
        source, shot = Source(original, 1.0, mask), Shot(prompt, i, "", STEPS, GUIDANCE)
        (made,) = draw(pipe, [shot], source=source)
        changed += int((np.asarray(made)[away] != np.asarray(original)[away]).any(-1).sum())
        crops.append(made.crop(box))
    free = drawn(model, prompts, range(count))
    return panel.right(crops, "subject", names), panel.right(free, "subject", names), changed


def _enlarged(
    panel: Panel, model: LatentDiffusion, subjects: Sequence[str], count: int
) -> tuple[list[float], list[float], list[float]]:
    """The judges' confidence in the right subject, ours and bicubic; decibels of ours when shrunk."""
    pipe = model.pipeline(SAMPLER)
    scenes = [replace(it, phrasing=0) for it in world.scenes(SMALL, count, subjects, styles=("plain",))]
    small = [world.draw(it).resize((SHRUNK, SHRUNK), Image.Resampling.BOX) for it in scenes]
    shots = [Shot(world.caption(it), i, "", STEPS, GUIDANCE) for i, it in enumerate(scenes)]
    ours = [enlarge(pipe, picture, shot, 2.0) for picture, shot in zip(small, shots, strict=True)]
    bicubic = [picture.resize(made.size, Image.Resampling.BICUBIC) for picture, made in zip(small, ours, strict=True)]
    shrunk = [made.resize((SHRUNK, SHRUNK), Image.Resampling.BOX) for made in ours]
    names = [it.subject for it in scenes]
    kept = psnr(tensor(shrunk), tensor(small)).tolist()
    return _confidence(panel, ours, names), _confidence(panel, bicubic, names), kept


def _confidence(panel: Panel, pictures: Pictures, names: Sequence[str]) -> list[float]:
    """The probability of the right subject, the mean of both judges'."""
    found = []
    subjects = (panel.classifier.subjects, panel.contrast.subjects)
    for network, known in zip(panel.networks, subjects, strict=True):
        chances = collect(network.probabilities, pictures)
        found.append([chances[i, known.index(name)] for i, name in enumerate(names)])
    return np.mean(found, axis=0).tolist()
