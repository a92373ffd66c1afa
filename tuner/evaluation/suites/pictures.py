"""How far finished pictures are from others: as two sets, and pair by pair where they have the same names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from ...errors import RequestError
from ..bench import Bench, need
from ..evidence import distances, judged, line, texts
from ..features import tensor
from ..fidelity import WINDOW, psnr, ssim
from ..gallery import Gallery
from ..report import Grid, Line, Report

SHOWN = 12


def evaluate(bench: Bench) -> Report:
    """Distances of --pictures from --against; PSNR and SSIM of pairs of one name; agreement with captions.

    Raises:
        RequestError: one of the two is missing, holds one picture, or pairs differ in size.
    """
    ours, theirs = bench.finished, bench.references
    need(ours is not None and theirs is not None, "--suite pictures needs two folders: --pictures and --against.")
    assert ours is not None and theirs is not None
    for flag, gallery in (("--pictures", ours), ("--against", theirs)):
        need(len(gallery) > 1, f"{flag} holds one picture; distances are between sets, of two pictures at least.")
    paired = sorted(map(_stem, ours.names)) == sorted(map(_stem, theirs.names))
    lines, notes = list(distances(bench, theirs, ours)), []
    if paired:
        lines = [*pairs(ours, theirs), *lines]
    elif bench.config.paired:
        raise RequestError(
            f"--paired needs pictures of the same names: --pictures holds {len(ours)} and --against {len(theirs)}, and "
            f"{_odd(ours, theirs)} is in one of them alone."
        )
    if all(ours.captions):
        lines += [*judged(bench, ours.captions, ours), *texts(bench, ours.captions, ours)]
    else:
        notes.append("The pictures have no captions: nothing was asked of texts.")
    shown = [("pictures", tuple(ours[:SHOWN])), ("held against", tuple(theirs[:SHOWN]))]
    return bench.report(lines, [], [Grid("The first pictures of both", (), tuple(shown))], notes)


def pairs(ours: Gallery, theirs: Gallery) -> Iterator[Line]:
    """PSNR and SSIM of pictures of one name. Raises RequestError where two are not of one size."""
    order = {_stem(name): i for i, name in enumerate(theirs.names)}
    noise: list[float] = []
    likeness: list[float] = []
    for i, name in enumerate(ours.names):
        one, other = ours[i], theirs[order[_stem(name)]]
        if one.size != other.size:
            sizes = " and ".join(f"{wide} x {high}" for wide, high in (one.size, other.size))
            raise RequestError(f"{name} is {sizes} in the two sets; pairs must be of one size: scale them first.")
        left, right = tensor([one]), tensor([other])
        noise += psnr(left, right).tolist()
        if min(one.size) >= WINDOW:
            likeness += ssim(left, right).tolist()
    names = list(ours.names)
    yield line("PSNR", names, noise, better="higher", about="Decibels of pairs of one name; equal pictures: infinite.")
    if len(likeness) == len(names):
        yield line("SSIM", names, likeness, better="higher", about="Structural similarity of pairs; 1 is equal.")


def _stem(name: str) -> str:
    return str(PurePath(name).with_suffix(""))


def _odd(ours: Gallery, theirs: Gallery) -> str:
    return min(set(map(_stem, ours.names)) ^ set(map(_stem, theirs.names)), default="a name twice")
