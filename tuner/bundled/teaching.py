"""The page of what a base knows and never knew: subjects that it is taught; itself before, which is their oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from ..commands.show import Show
from ..evaluation.panel import Panel
from ..evaluation.sheet import grid
from ..models.latent_diffusion import LatentDiffusion
from .base import teach
from .figures import Drawer, known_to, singles
from .pages import page, percent, table

SUBJECTS = ("koala", "pumpkin")


def of_teaching(base: str, subjects: Sequence[str], count: int, steps: int, out: Path, work: Path) -> str:
    """Teach a base some subjects, judge it before and after; write out/teaching.md and out/teaching.png; the text."""
    taught = teach(work, subjects, max(2000, 8 * steps), steps, base, Show())
    panel = Panel.load()
    known = [name for name in known_to(base) if name in panel.trusted("subject")]
    ours, others = singles(subjects, count), singles(known, 1)
    rows, sheets, kept = {}, [], []
    for label, model in (("before", base), ("after", str(taught))):
        drawer = Drawer(LatentDiffusion.load(model), panel)
        right, made = drawer.right(ours, "subject")
        kept.append(drawer.right(others, "subject")[0])
        rows[label] = [percent(right[i * count : (i + 1) * count]) for i in range(len(subjects))]
        sheets += [made[i * count : i * count + 12] for i in range(len(subjects))]
    lost = 100 * (fmean(kept[1]) - fmean(kept[0]))
    body = [(name, before, after) for name, before, after in zip(subjects, rows["before"], rows["after"], strict=True)]
    body.append(
        (f"its own {len(known)} subjects, a picture each", percent(kept[0]), f"{percent(kept[1])} ({lost:+.1f})")
    )
    text = (
        f"{steps} steps of 32; {count} pictures a subject, on backgrounds that take turns. Right is what both judges "
        "see. The base before has never seen a picture of what it is taught: for these subjects it is the oracle that "
        "a base which has forgotten them can be held against.\n\n"
    ) + table(("subject", "right before", "after"), body)
    words = [f"{name}, {label}" for label in ("before", "after") for name in subjects]
    return page(out, "teaching", "Teaching the base", "teaching-figures", text, grid(sheets, words, cell=96), "taught")
