"""The figures of the bundled base: how well it draws what it is asked for. Both judges must agree on every picture."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from PIL import Image, ImageFilter

from ..evaluation.asked import Names
from ..evaluation.distances import kid
from ..evaluation.features import collect, network
from ..evaluation.judge import pixels
from ..evaluation.panel import Panel
from ..evaluation.relations import Related
from ..evaluation.sheet import captioned
from ..models.latent_diffusion import LatentDiffusion, recommended
from . import emoji, mixture, world
from .pages import BATCH, GUIDANCE, SAMPLER, STEPS, drawn, page, percent, table

UNSEEN, REAL, OTHERS, SHOWN = 8001, 8002, 8003, 8601  # seeds of scenes that nothing was trained on
Scenes = list[world.Scene]


@dataclass
class Drawer:
    """A base that draws scenes from their captions, and the judges."""

    model: LatentDiffusion
    panel: Panel

    def right(self, scenes: Scenes, aspect: str) -> tuple[list[bool], list[Image.Image]]:
        """Whether both judges see it in the picture of each scene, and the pictures. Picture i has seed i."""
        made = drawn(self.model, [world.caption(it) for it in scenes], range(len(scenes)))
        if aspect == "relation":
            asked = [Related(it.subject, it.relation, it.other) for it in scenes]
            return self.panel.relation_right(made, asked), made
        return self.panel.right(made, aspect, [getattr(it, aspect) for it in scenes]), made


def of_base(base: str, count: int, out: Path) -> str:
    """Draw `count` pictures of every subject and more; write out/base.md and out/base.png; the text."""
    drawer = Drawer(LatentDiffusion.load(base), Panel.load())
    known = [name for name in known_to(base) if name in drawer.panel.trusted("subject")]
    scenes = singles(known, count)
    started = time.perf_counter()
    subject, made = drawer.right(scenes, "subject")
    seconds = (time.perf_counter() - started) / len(made)
    background = drawer.panel.right(made, "background", [it.background for it in scenes])
    by_name = {name: [ok for ok, it in zip(subject, scenes, strict=True) if it.subject == name] for name in known}
    rows = [("subject right", percent(subject)), ("background right", percent(background))]
    rows += more(drawer, known, count)
    near, soft = realism(scenes, made)
    rows += [
        ("KID-judge from real scenes", near), ("KID-judge of real scenes blurred by 1 px", soft),
        ("autoencoder on unseen scenes", f"{fidelity(drawer.model, known):.1f} dB"),
        ("autoencoder on scenes of held-out subjects", f"{fidelity(drawer.model, emoji.HELD_OUT):.1f} dB"),
        ("seconds a picture", f"{seconds:.2f}"),
    ]  # fmt: skip
    hardest = sorted(known, key=lambda name: fmean(by_name[name]))[:12]
    left_out = {kind: ", ".join(names) for kind, names in drawer.panel.excluded().items() if names}
    text = "\n".join([
        f"{len(known)} subjects x {count} seeds; {SAMPLER}, {STEPS} steps, guidance {GUIDANCE:g}; "
        f"threads: {torch.get_num_threads()}. Right is what both judges see.\n",
        table(("figure", "value"), rows),
        table(("hardest subjects", "right"), [(name, percent(by_name[name])) for name in hardest]),
        "Left out, as a judge is right on fewer than 95% of its real scenes: "
        + ("; ".join(f"{kind}: {names}" for kind, names in left_out.items()) or "nothing") + ".\n",
        "One hundred prompts, as the world draws them, at seed 0, none chosen:\n",
    ])  # fmt: skip
    return page(out, "base", "The bundled base", "figures", text, hundred(drawer.model, known), "a hundred prompts")


def known_to(base: str) -> Sequence[str]:
    """The subjects that a base was taught: those of the prompts that it is evaluated by."""
    names = Names(emoji.KNOWN, (), ())
    asked = (names.asked(prompt).subject for prompt in recommended(base, "evaluate").get("other", ()))
    return tuple(dict.fromkeys(filter(None, asked))) or emoji.KNOWN


def singles(names: Sequence[str], count: int, style: str = "plain") -> Scenes:
    """`count` scenes of each subject, on backgrounds that take turns."""
    colours = list(world.COLOURS)
    return [
        world.in_style(world.Scene(name, colours[(5 * i + k) % len(colours)]), style)
        for i, name in enumerate(names) for k in range(count)
    ]  # fmt: skip


def more(drawer: Drawer, known: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Styles, relations, counts, combinations that were never shown."""
    rows = []
    style, named = list[bool](), list[bool]()
    for name in world.STYLES[1:]:
        styled = singles(known, 1, name)
        right, made = drawer.right(styled, "style")
        rows.append((f"style right, {name}", percent(right)))
        style += right
        named += drawer.panel.right(made, "subject", [it.subject for it in styled])
    rows.append(("style right, all of them", percent(style)))
    rows.append(("subject right in a style", percent(named)))
    related = [
        world.Scene(name, background, relation=world.RELATIONS[i % 4], other=known[(i + 1 + i // 4) % len(known)])
        for i, (name, background) in enumerate((it.subject, it.background) for it in singles(known, 1))
    ]  # fmt: skip
    rows.append(("relation right: both subjects, each in its place", percent(drawer.right(related, "relation")[0])))
    several = [replace(it, count=2 + i % 2) for i, it in enumerate(singles(known, 1))]
    rows.append(("number right, two and three", percent(drawer.right(several, "count")[0])))
    pairs = [(name, what) for name, what in mixture.unseen() if name in known]
    for what, kinds in (("background", world.COLOURS), ("style", world.STYLES)):
        unseen = [(name, one) for name, one in pairs if one in kinds]
        if not unseen:  # a base that was shown them all
            continue
        strange = [pair(name, one) for name, one in unseen]
        seen = [pair(name, another(name, one, list(kinds))) for name, one in unseen]
        for label, scenes in (("never shown", strange), ("shown", seen)):
            right, made = drawer.right(scenes, what)
            named = drawer.panel.right(made, "subject", [it.subject for it in scenes])
            both = [one and other for one, other in zip(right, named, strict=True)]
            rows.append((f"subject and {what} right, {len(scenes)} pairs {label}", percent(both)))
    return rows


def pair(name: str, what: str) -> world.Scene:
    """A subject on a background, or in a style on white."""
    if what in world.COLOURS:
        return world.Scene(name, what)
    return world.in_style(world.Scene(name, "white" if not mixture.withheld(name, "white", "plain") else "blue"), what)


def another(name: str, what: str, kinds: list[str]) -> str:
    """The next of the kind that the base was shown the subject with."""
    order = [one for one in kinds[kinds.index(what) :] + kinds if one != "plain"]
    pairs = set(mixture.unseen())
    return next(one for one in order if (name, one) not in pairs)


def realism(scenes: Scenes, made: Sequence[Image.Image]) -> tuple[str, str]:
    """KID of the pictures from real scenes of the same words, and of real scenes that are blurred."""
    names = [it.subject for it in scenes]
    real, others = (
        [world.draw(it) for it in world.scenes(seed, len(scenes), list(dict.fromkeys(names)), styles=("plain",))]
        for seed in (REAL, OTHERS)
    )
    judge = network()
    seen = collect(judge, others)
    found = [
        kid(collect(judge, pictures), seen, judge.name)
        for pictures in (made, [one.filter(ImageFilter.GaussianBlur(1)) for one in real])
    ]
    return tuple(f"{figure.value:.4f} ± {figure.error:.4f}" for figure in found)  # type: ignore[return-value]


@torch.no_grad()
def fidelity(model: LatentDiffusion, subjects: Sequence[str], count: int = 128) -> float:
    """PSNR in dB, the mean over unseen mixed scenes, of what the autoencoder makes of them."""
    scenes = mixture.mixture(UNSEEN, count, subjects)
    shown = pixels([world.draw(it, model.resolution) for it in scenes])
    again = torch.cat([model.vae(part).sample.clamp(-1, 1) for part in shown.split(BATCH)])
    return float((10 * torch.log10(4 / (shown - again).square().mean((1, 2, 3)))).mean())


def hundred(model: LatentDiffusion, known: Sequence[str]) -> Image.Image:
    """A sheet of a hundred prompts at seed 0, with their words."""
    words = [world.caption(it) for it in mixture.mixture(SHOWN, 100, tuple(known))]
    return captioned(drawn(model, words, [0] * len(words)), words, across=10)
