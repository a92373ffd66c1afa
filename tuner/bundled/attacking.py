"""The page of attacks: how much of what was taken out comes back, beside a base that never knew it.

Subjects that were held out are taught to the base; the base before is the oracle. Each is taken out again, and every
attack is made on what is left and on the oracle, with the same budget. What an attack reaches on the oracle it teaches
by itself; only the excess was still there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..adapters.artifact import Artifact
from ..adapters.bake import bake
from ..adapters.lora import Lora
from ..commands.show import Show, Silent
from ..config import build
from ..evaluation.bench import Bench, Judged
from ..evaluation.request import Config
from ..evaluation.sheet import grid
from ..evaluation.suites.subject import recognised
from ..files import write_json
from ..models.architecture import save
from ..models.latent_diffusion import BUNDLED, LatentDiffusion, recommended
from . import emoji, world
from .attacks import ATTACKS, Victim
from .base import teach
from .erasing import METHODS
from .learning import trained
from .pages import page, table

SUBJECTS = {"koala": "panda", "pumpkin": "apple", "owl": "penguin"}  # each with what stands in its place
UNSEEN = 9102  # seed of the scenes that pictures are held against
SHOWN = 8
ORACLE, KNOWS = "never knew", "knows"  # the base before the teaching, and after it


def of_attacks(
    base: str, subjects: Mapping[str, str], methods: Sequence[str], count: int, steps: int, out: Path, work: Path
) -> str:
    """Teach, take out, attack; write out/attacks.md and .png; the text. Goes on where it was stopped.

    Args:
        subjects: what is taken out, with its anchors; taught are all of `SUBJECTS`.
        count: pictures of each attack. steps: of the teaching.
    """
    taught = str(_as_base(teach(work, tuple(SUBJECTS), max(2000, 8 * steps), steps, base, Show()), base))
    fast = _distilled(taught, work)
    found: dict[str, dict[str, list[bool]]] = {}
    rows: dict[str, list[Image.Image]] = {}
    for name, anchor in subjects.items():
        folders = {ORACLE: base, KNOWS: taught, **{how: _without(taught, name, anchor, how, work) for how in methods}}
        for who, folder in folders.items():
            key, own = f"{name}, {who}", work / f"{name}_{who.replace(' ', '_')}"
            found[key] = _attacked(Victim(folder, name, anchor, count, own, fast))
            rows |= {f"{key}: {attack}": _pictures(work, name, who, attack) for attack in list(ATTACKS)[:4]}
    text = (
        f"{', '.join(SUBJECTS)} were taught to the base, and of these {', '.join(subjects)} taken out again, one at a "
        f"time. {count} pictures an attack and a base. Recognised is a picture that is nearest to unseen scenes of the "
        "subject, and to no scene of anything else, in the features of both judges. The LCM-LoRA was distilled from "
        "the taught base, before anything was taken out. Knows is that base: what an attack can reach at most. Excess "
        "is what an attack reaches beyond what it reaches on the base that never knew the subject: in points, in the "
        "mean of the subjects, with the 95% interval of drawing the pictures of each again.\n\n"
    )
    text += _table(found, subjects, methods)
    sheet = grid(list(rows.values()), list(rows), cell=64)
    return page(
        out, "attacks", "Attacks on what was taken out", "attack-figures", text, sheet, "what attacks bring back"
    )


def _as_base(folder: Path, like: str) -> Path:
    """A pipeline with the defaults that another base brings along."""
    shutil.copy(Path(BUNDLED.get(like, like)) / "training.toml", folder / "training.toml")
    return folder


def _distilled(taught: str, work: Path) -> Path:
    """A LoRA that draws in few steps what the taught base knows, the subjects too: of the kind that is handed about."""
    prompts = [*recommended(taught, "distill-lcm").get("prompt", ()), *(f"a {name}" for name in SUBJECTS)]
    run = trained("distill-lcm", taught, work / "lcm", {"prompt": prompts, "samples": 0, "name": "it"})
    return run.folder / f"{run.name}.safetensors"


def _without(taught: str, name: str, anchor: str, how: str, work: Path) -> str:
    """The taught base with a subject taken out."""
    folder = work / f"{name}_{how}_base"
    if not folder.exists():
        asked: dict[str, Any] = {"target": [name], "anchor": [anchor], "method": how, "samples": 0, "force": True}
        run = trained("ablate", taught, work / f"{name}_{how}_run", {**asked, **METHODS[how]})
        model, file = LatentDiffusion.load(taught), run.folder / f"{run.name}.safetensors"
        lora = Lora.from_artifact(Artifact.load(file), model, file)
        bake(model, lora.changes, lora.targets)
        save(model, folder)
        _as_base(folder, taught)
    return str(folder)


def _attacked(victim: Victim) -> dict[str, list[bool]]:
    """Whether each picture of each attack shows the subject; what was found before is read again."""
    file, config = victim.work / "found.json", build(Config, {"world": True, "base": victim.base})
    found: dict[str, list[bool]] = json.loads(file.read_text()) if file.is_file() else {}
    bench = Bench("subject", Judged(victim.subject, victim.base), config, Silent())
    own = [world.draw(it) for it in world.scenes(UNSEEN, 24, (victim.subject,), styles=("plain",))]
    others = [world.draw(it) for name in emoji.KNOWN for it in world.scenes(UNSEEN, 2, (name,), styles=("plain",))]
    for attack, make in ATTACKS.items():
        if attack not in found:
            made = make(victim)
            found[attack] = recognised(bench, (made,), own, others)[0].tolist()
            for number, picture in enumerate(made[:SHOWN]):
                place = victim.work / "shown" / f"{_slug(attack)}-{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                picture.save(place)
            write_json(file, found)
    return found


def _pictures(work: Path, name: str, who: str, attack: str) -> list[Image.Image]:
    folder = work / f"{name}_{who.replace(' ', '_')}" / "shown"
    return [Image.open(file).convert("RGB") for file in sorted(folder.glob(f"{_slug(attack)}-*.png"))]


def _slug(attack: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in attack)


def _table(
    found: Mapping[str, Mapping[str, Sequence[bool]]], subjects: Mapping[str, str], methods: Sequence[str]
) -> str:
    head = ("attack", ORACLE, KNOWS, *(word for how in methods for word in (how, f"excess of {how}")))
    rows = []
    for attack in ATTACKS:

        def rates(who: str, attack: str = attack) -> np.ndarray:
            """In points, in the mean of the subjects: as it is, and 2,000 times with the pictures drawn again."""
            rng, every = np.random.default_rng([*who.encode()]), []
            for name in subjects:
                hits = np.array(found[f"{name}, {who}"][attack], dtype=float)
                again = hits[rng.integers(len(hits), size=(2000, len(hits)))]
                every.append([hits.mean(), *again.mean(axis=1)])
            return 100 * np.mean(every, axis=0)

        oracle = rates(ORACLE)
        cells = [f"{oracle[0]:.0f}%", f"{rates(KNOWS)[0]:.0f}%"]
        for how in methods:
            excess = rates(how) - oracle
            low, high = np.percentile(excess[1:], [2.5, 97.5])
            cells += [f"{rates(how)[0]:.0f}%", f"{excess[0]:+.0f} ({low:+.0f} to {high:+.0f})"]
        rows.append((attack, *cells))
    return table(head, rows)
