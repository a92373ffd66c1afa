"""Training the bundled base: the picture world, then `tuner pretrain` and `tuner finetune`, stage by stage.

Every stage is a run that resumes: interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..config import build, write_toml
from ..files import replacing, write_text
from ..places import PACKAGE, place
from ..recipe import load_recipe, recipe_class
from ..run import Run
from ..training.job import Show, run_recipe
from . import emoji, eye, world
from .folders import write_scenes, write_world
from .mixture import SLOW, harder

BASE = PACKAGE / "bundled" / "base"
KNOWN_SEED, ALL_SEED, TAUGHT_SEED, HARDER_SEED = 1, 2, 3, 4  # of the scenes; the judges' are from 7001 on
LATENT_CHANNELS = 8  # with four, a comic's outlines and a mosaic's tiles come back 1 to 3 dB worse


def training() -> str:
    """The base's own defaults: what measured best on it (docs/lora.md), and what a LoRA is not to forget."""
    colours = list(world.COLOURS)

    def prompts(turn: int) -> list[str]:
        scenes = [world.Scene(name, colours[(7 * i + turn) % len(colours)]) for i, name in enumerate(emoji.KNOWN)]
        return [world.caption(it) for it in scenes]

    def styled(number: int, name: str) -> str:
        style = world.STYLES[1 + number % (len(world.STYLES) - 1)]  # the first is plain
        plain = world.Scene(name, colours[(5 * number + number // 6) % len(colours)])
        return world.caption(world.in_style(plain, style))

    every = prompts(0) + [styled(i, name) for i, name in enumerate(emoji.KNOWN[::2])]
    lora = {"steps": 400, "batch_size": 8, "learning_rate": 1e-3, "v_like": 1.0, "class_prompt": prompts(0)[::2]}
    contexts = [f"{{}} on a {colour} background" for colour in colours]
    others: dict[str, dict[str, Any]] = {
        "textual-inversion": {
            "template": "captions", "vectors": 4, "learning_rate": 5e-3, "batch_size": 4, "steps": 400,
            "v_like": 1.0,
        },
        "controlnet": {
            "steps": 2000, "batch_size": 8, "learning_rate": 1e-3, "lr_scheduler": "cosine", "v_like": 1.0,
        },
        "t2i-adapter": {"steps": 2000, "batch_size": 8, "learning_rate": 1e-3, "lr_scheduler": "cosine"},
        "ablate": {"retain": prompts(0)[::2], "batch_size": 8},
        "distill-lcm": {
            "steps": 400, "batch_size": 8, "guidance_min": 4.0, "guidance_max": 4.0, "lr_scheduler": "cosine",
            "learning_rate": 3e-4, "rank": 64, "prompt": every,
        },
        "finetune": {"steps": 400, "batch_size": 8, "learning_rate": 1e-4, "class_prompt": prompts(0)[::2]},
    }  # fmt: skip
    evaluate = {"world": True, "prompt": contexts, "other": prompts(5)}  # others than a LoRA is shown while it trains
    return "# Defaults on this base; flags and configuration files go before them.\n" + "\n".join(
        f"[{name}]\n{write_toml(values)}" for name, values in {"lora": lora, **others, "evaluate": evaluate}.items()
    )


def worlds(folder: Path, count: int, start: str) -> None:
    """The pictures that the stages see: scenes of its subjects, and of all but the held-out ones for an autoencoder.

    `harder` has more of what is slow to learn; of that, `related` has the scenes of two subjects alone, and `stubborn`
    all of what is slower still (styles of blocks, several of a kind) and a quarter of the rest.
    """
    everything = tuple(name for name in emoji.table() if name not in emoji.HELD_OUT)
    for name, seed, subjects in (("known", KNOWN_SEED, emoji.KNOWN), ("all", ALL_SEED, everything)):
        if not (folder / name).exists() and (name == "known" or start == "new"):
            write_world(folder / name, count, seed, subjects=subjects, mixture=True)
    kinds: dict[str, Callable[[int, world.Scene], bool]] = {
        "harder": lambda i, it: True,
        "related": lambda i, it: bool(it.other) and not it.words,
        "stubborn": lambda i, it: it.style in SLOW or it.count > 1 or i % 4 == 0,
    }
    for name, wanted in kinds.items():
        if not (folder / name).exists():
            write_scenes(folder / name, (it for i, it in enumerate(harder(HARDER_SEED, count)) if wanted(i, it)))
    write_text(folder / "words.txt", "\n".join(world.vocabulary()) + "\n")


def stages(folder: Path, steps: int, start: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The runs: names, commands and options. `steps` are those of the longest two.

    The autoencoder learns on crops first, which are a quarter of the work, and then on whole pictures. The rest learns
    on all kinds of scenes alike. Then the text encoder is told left from right (`grammar`), and the U-Net by itself
    takes that up (together with an encoder that trains it would be lost before it is of use): on scenes of two alone,
    then on all, then on what is left to learn. At the end the decoder alone, whose latents stay as they are, gets a
    perceptual distance and a critic, which make pictures crisp, and more of what it blurs: blocks and tiles.
    """
    words = str(folder / "words.txt")  # known ones keep what they mean
    shared = {"precision": "auto", "lr_scheduler": "cosine", "save_every": 250, "seed": 1, "words": words}
    vae = {**shared, "stage": "autoencoder", "images": str(folder / "all"), "batch_size": 16, "ema": 0.0}
    if start == "new":
        sizes = {"crop": 32, "latent_channels": LATENT_CHANNELS}
        yield "crops", "pretrain", {**vae, **sizes, "steps": steps, "learning_rate": 1e-3}
        start = str(folder / "crops" / "pipeline")
        yield "pictures", "pretrain", {**vae, "base": start, "steps": steps // 3, "learning_rate": 4e-4}
        start = str(folder / "pictures" / "pipeline")
    last = {
        **shared, "stage": "diffusion", "steps": steps, "optimizer": "muon", "warmup_steps": min(50, steps // 10),
        "ema": 0.999, "snr_gamma": 5.0, "sample_every": 1000,
    }  # fmt: skip
    yield "base", "pretrain", {**last, "base": start, "images": str(folder / "known"), "learning_rate": 1e-3}
    alone = {key: value for key, value in last.items() if key not in ("stage", "words", "steps", "ema")}
    alone |= {"steps": steps // 5, "ema": 0.99, "v_like": 0.5, "caption_dropout": 0.05, "learning_rate": 1e-3}
    yield "sides", "finetune", {**alone, "base": str(folder / "grammar"), "images": str(folder / "related")}
    before = "sides"
    for name, images, share, rate in (("further", "harder", 1.0, 8e-4), ("last", "stubborn", 0.5, 5e-4)):
        alone |= {"steps": int(share * steps), "ema": 0.998, "v_like": 0.2, "learning_rate": rate}
        alone |= {"base": str(folder / before / "pipeline"), "images": str(folder / images)}
        yield name, "finetune", dict(alone)
        before = name
    yield "decoder", "pretrain", {
        **vae, "stage": "decoder", "base": str(folder / before / "pipeline"), "images": str(folder / "stubborn"),
        "perceptual": str(folder / "eye"), "adversarial": 0.02, "steps": steps // 3, "learning_rate": 6e-4,
    }  # fmt: skip


def train(folder: Path, count: int, steps: int, start: str, show: Show) -> Path:
    """Make the worlds and train the stages in `folder`; the pipeline of the last one."""
    worlds(folder, count, start)
    if not (folder / "eye").exists():
        eye.train(folder / "eye")
    run: Run | None = None
    for name, command, options in stages(folder, steps, start):
        if name == "sides" and not Path(options["base"]).exists():
            _tell_sides(folder / "base" / "pipeline", Path(options["base"]))
        out, kind = folder / name, recipe_class(load_recipe(place("recipes") / f"{command}.py"))
        config = build(kind.Config, {**options, "out": str(out), "resume": (out / "config.toml").exists()})
        run = run_recipe(kind, config, command, show)
        run.close()
    assert run is not None
    return run.folder / "pipeline"


def _tell_sides(pipeline: Path, out: Path) -> None:
    """The same pipeline with a text encoder that tells left from right."""
    from ..models.architecture import save
    from ..models.latent_diffusion import LatentDiffusion
    from . import grammar

    model = LatentDiffusion.load(str(pipeline))
    grammar.train(model)
    save(model, out)


def teach(folder: Path, subjects: Sequence[str], count: int, steps: int, start: str, show: Show) -> Path:
    """Teach a base further subjects, so that it draws them as it does its own: the pipeline.

    Its own are shown as often, lest they be forgotten. The base before is an oracle for the new ones: a model like this
    one that never saw them.
    """
    kind = recipe_class(load_recipe(place("recipes") / "pretrain.py"))
    share = -(-len(emoji.KNOWN) // len(subjects))
    if not (folder / "lessons").exists():
        both = (*tuple(subjects) * share, *emoji.KNOWN)
        write_world(folder / "lessons", count, TAUGHT_SEED, subjects=both, mixture=True)
    out = folder / "taught"
    options = {
        "precision": "auto", "lr_scheduler": "cosine", "stage": "diffusion", "base": start, "snr_gamma": 5.0,
        "images": str(folder / "lessons"), "steps": steps, "learning_rate": 3e-4, "warmup_steps": steps // 10,
        "ema": 0.995, "samples": 0, "out": str(out), "resume": (out / "config.toml").exists(),
    }  # fmt: skip
    run = run_recipe(kind, build(kind.Config, options), "pretrain", show)
    run.close()
    return run.folder / "pipeline"


def install(pipeline: Path, out: Path = BASE) -> None:
    """Make a trained pipeline the bundled one, in fp16."""
    import torch

    from ..models.architecture import save
    from ..models.latent_diffusion import LatentDiffusion

    with replacing(out) as part:
        save(LatentDiffusion.load(str(pipeline)), part, torch.float16)
        write_text(part / "training.toml", training())
