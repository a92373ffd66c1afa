"""The figures of the docs: how well the bundled base draws what it is asked for, and how well it learns from a LoRA.

The judge decides. Prompts are `a SUBJECT on a COLOUR background`; colours take turns, so that every subject is asked
for on several. Picture k of a prompt has seed k.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean

import torch
from PIL import Image

from ..evaluation.judge import Judge, References, pixels
from ..evaluation.pictures import pictures
from ..evaluation.sheet import grid, save
from ..files import write_text
from ..models.latent_diffusion import LatentDiffusion, recommended
from ..places import place
from ..run import Run
from . import emoji, world

SAMPLER, STEPS, GUIDANCE = "dpm++", 20, 3.0


UNSEEN_SEED = 8001  # of scenes that neither the base nor the judge was trained on
SUBJECTS = ("teddy bear", "owl", "fox", "tractor", "pineapple", "snowman")  # of the LoRA page


@dataclass(frozen=True)
class Asked:
    """A prompt in its parts, and the picture's seed."""

    subject: str
    background: str
    seed: int

    @property
    def prompt(self) -> str:
        return world.caption(world.Scene(self.subject, self.background))


def asked(subjects: Sequence[str], count: int) -> list[Asked]:
    """`count` prompts of every subject, on backgrounds that take turns."""
    colours = list(world.COLOURS)
    return [
        Asked(name, colours[(5 * i + k) % len(colours)], k) for i, name in enumerate(subjects) for k in range(count)
    ]


def drawn(model: LatentDiffusion, wanted: Sequence[Asked], adapter: Path | None = None) -> list[Image.Image]:
    """What a base, with an adapter or without, makes of the prompts: one picture each."""
    from ..adapters.apply import apply_adapter

    pipe = model.pipeline(SAMPLER)
    if adapter:
        apply_adapter(pipe, adapter, 1.0, "judged")
    made: list[Image.Image | None] = [None] * len(wanted)
    for seed in sorted({w.seed for w in wanted}):
        index = [i for i, w in enumerate(wanted) if w.seed == seed]
        for i, picture in zip(
            index, pictures(pipe, [wanted[i].prompt for i in index], [seed], STEPS, GUIDANCE), strict=True
        ):
            made[i] = picture
    if adapter:
        pipe.unload_lora_weights()
    return [picture for picture in made if picture is not None]


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


def of_base(base: str, count: int, out: Path) -> str:
    """Draw `count` pictures of every subject; write out/base.md and out/base.png; the text."""
    model, judge = LatentDiffusion.load(base), Judge.load()
    wanted = asked(emoji.KNOWN, count)
    started = time.perf_counter()
    made = drawn(model, wanted)
    seconds = (time.perf_counter() - started) / len(made)
    seen, among_cats = judge.judge(made), judge.recognise(made, _only(judge, emoji.CATS))
    triples = list(zip(wanted, seen, among_cats, strict=True))
    right = {name: [s.subject == name for w, s, _ in triples if w.subject == name] for name in emoji.KNOWN}
    cats = {name: [c.subject == name for w, _, c in triples if w.subject == name] for name in emoji.CATS}
    hardest = sorted(right, key=lambda name: fmean(right[name]))[:8]
    figures = [
        ("subject right", percent(value for row in right.values() for value in row)),
        ("background right", percent(s.background == w.background for w, s, _ in triples)),
        ("eleven cats told from each other, mean", percent(value for row in cats.values() for value in row)),
        ("the worst of the cats", percent(min(cats.values(), key=fmean))),
        ("autoencoder on unseen scenes", f"{fidelity(model, emoji.KNOWN):.1f} dB"),
        ("autoencoder on scenes of held-out subjects", f"{fidelity(model, emoji.HELD_OUT):.1f} dB"),
        ("seconds a picture", f"{seconds:.2f}"),
    ]
    text = "\n".join([
        f"{len(emoji.KNOWN)} subjects x {count} seeds; {SAMPLER}, {STEPS} steps, guidance {GUIDANCE:g}, "
        f"{torch.get_num_threads()} threads.\n",
        table(("figure", "value"), figures),
        table(("hardest subjects", "right"), [(name, percent(right[name])) for name in hardest]),
        table(("cat", "told from the other ten"), [(name, percent(row)) for name, row in cats.items()]),
    ])  # fmt: skip
    rows = [made[k::count][i : i + 11] for i in range(0, len(emoji.KNOWN), 11) for k in range(min(2, count))]
    return page(out, "base", "The bundled base", "figures", text, grid(rows, cell=96), "every subject, two seeds")


@torch.no_grad()
def fidelity(model: LatentDiffusion, subjects: Sequence[str], count: int = 128) -> float:
    """PSNR in dB, the mean over unseen scenes, of what the autoencoder makes of them."""
    shown = pixels([world.draw(it, model.resolution) for it in world.scenes(UNSEEN_SEED, count, subjects)])
    again = model.vae(shown).sample.clamp(-1, 1)
    return float((10 * torch.log10(4 / (shown - again).square().mean((1, 2, 3)))).mean())


def _only(judge: Judge, names: Sequence[str]) -> References:
    """The references of some subjects alone."""
    known = judge.world_references
    keep = [i for i, name in enumerate(known.names) if name in names]
    return replace(known, names=tuple(known.names[i] for i in keep), features=known.features[keep])


@dataclass(frozen=True)
class Learned:
    """What a LoRA of one subject did: shares of pictures, and the training's seconds."""

    before: float
    after: float
    background: float
    others: float
    seconds: float

    def cells(self, name: str) -> tuple[str, ...]:
        shares = (f"{self.before:.0%}", f"{self.after:.0%}", f"{self.background:.0%}", f"{100 * self.others:+.1f}")
        return (name, *shares, f"{self.seconds:.0f} s")


def of_lora(base: str, subjects: Sequence[str], count: int, out: Path, runs: Path) -> str:
    """Train a LoRA of each subject from its ready-made folder, with the command's defaults; judge before and after."""
    model, judge = LatentDiffusion.load(base), Judge.load()
    others = asked(emoji.KNOWN, 2)
    known = fmean(_right(judge, others, drawn(model, others)))
    rows, sheets = {}, []
    for name in subjects:
        run, seconds = _trained(name, base, runs)
        adapter = run.folder / f"{run.name}.safetensors"
        wanted = asked([name], count)
        before, after = drawn(model, wanted), drawn(model, wanted, adapter)
        found = [fmean(seen.subject == name for seen in judge.recognise(made)) for made in (before, after)]
        ground = fmean(s.background == w.background for w, s in zip(wanted, judge.judge(after), strict=True))
        drift = fmean(_right(judge, others, drawn(model, others, adapter))) - known
        rows[name] = Learned(found[0], found[1], ground, drift, seconds)
        sheets += [before[:8], after[:8]]
    all_of = {field.name: [getattr(row, field.name) for row in rows.values()] for field in fields(Learned)}
    worst = Learned(*(max(v) if name in ("before", "seconds") else min(v) for name, v in all_of.items()))
    summary = {"mean": Learned(*map(fmean, all_of.values())), "worst": worst}
    text = f"{count} pictures a subject at the same seeds before and after; other subjects: {len(others)} pictures.\n\n"
    head = ("subject", "recognised before", "after", "background right", "other subjects, points", "training")
    text += table(head, [row.cells(name) for name, row in (rows | summary).items()])
    sheet = grid(sheets, [f"{name}, {when}" for name in subjects for when in ("before", "after")], cell=96)
    return page(out, "lora", "LoRA on held-out subjects", "lora-figures", text, sheet, "before and after")


def _right(judge: Judge, wanted: Sequence[Asked], made: Sequence[Image.Image]) -> list[bool]:
    return [seen.subject == want.subject for want, seen in zip(wanted, judge.judge(made), strict=True)]


def _trained(name: str, base: str, runs: Path) -> tuple[Run, float]:
    """The run of a subject, trained now or before, and the seconds of its steps."""
    from ..commands.show import Show
    from ..config import build
    from ..recipe import load_recipe, recipe_class
    from ..training.job import run_recipe

    kind = recipe_class(load_recipe(place("recipes") / "lora.py"))
    folder = runs / name.replace(" ", "_")
    images = place("datasets") / folder.name
    values = {"base": base, "images": str(images), "out": str(folder), "resume": folder.exists()}
    run = run_recipe(kind, build(kind.Config, {**recommended(base, "lora"), **values}), "lora", Show())
    run.close()
    return run, sum(row["seconds"] for row in run.metrics())
