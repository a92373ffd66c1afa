"""The pages of the docs that commands make: their tables, their pictures, how these are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from PIL import Image

from ..evaluation.sheet import save
from ..evaluation.statistics import Figure
from ..files import write_text
from ..models.latent_diffusion import LatentDiffusion
from ..sampling.drawing import draw
from ..sampling.shots import Shot

SAMPLER, STEPS, GUIDANCE = "dpm++", 20, 3.0  # what the bundled base is recommended to be drawn with
BATCH = 8
DRAWING = {"steps": 12}  # of pages with thousands of pictures: subjects and backgrounds come out as right as in 20


def drawn(model: LatentDiffusion, prompts: Sequence[str], seeds: Iterable[int]) -> list[Image.Image]:
    """A picture of each prompt at its seed."""
    shots = [Shot(prompt, seed, "", STEPS, GUIDANCE) for prompt, seed in zip(prompts, seeds, strict=True)]
    return list(draw(model.pipeline(SAMPLER), shots, batch_size=BATCH))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def page(out: Path, name: str, title: str, command: str, text: str, sheet: Image.Image, words: str) -> str:
    """Write out/NAME.md and out/NAME.png; the text."""
    save(sheet, out / f"{name}.png")
    made = f"`python -m tuner.bundled {command}` made this page."
    write_text(out / f"{name}.md", f"# {title}\n\n{made}\n\n{text}\n![{words}]({name}.png)\n")
    return text


def percent(values: Iterable[bool]) -> str:
    return f"{100 * fmean(values):.1f}%"


def cell(figure: Figure) -> str:
    """A figure with its interval, or its standard error; shares in percent."""
    scale, sign = (100, "%") if figure.unit == "share" else (1, "")
    words = f"{scale * figure.value:.3g}{sign}"
    if figure.low is not None and figure.high is not None:
        return f"{words} ({scale * figure.low:.3g} to {scale * figure.high:.3g})"
    return words if figure.error is None else f"{words} ± {figure.error:.2g}"


def plain(figure: Figure, value: float | None = None) -> str:
    """A figure's value, or another of its kind, without its interval; shares in percent."""
    value = figure.value if value is None else value
    return f"{100 * value:.0f}%" if figure.unit == "share" else f"{value:.2f}"
