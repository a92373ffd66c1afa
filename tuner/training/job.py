"""A training job from its options to its proofs: what every training command does, whatever the recipe."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from .. import card
from ..errors import RequestError, RunError
from ..evaluation.sheet import grid, save
from ..models.latent_diffusion import LatentDiffusion
from ..randomness import use_threads
from ..run import Run
from .fit import Step, fit
from .precision import accelerator

if TYPE_CHECKING:
    from PIL import Image

    from ..recipe import Recipe

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SAMPLES = 2  # pictures a prompt


class Show(Protocol):
    """What a job tells of itself while it works."""

    def say(self, text: str) -> None:
        """A sentence."""

    def working(self, text: str) -> AbstractContextManager[object]:
        """Something that takes a while and has no steps."""

    def step(self, step: Step, total: int) -> None:
        """An optimizer step was taken."""

    def close(self) -> None:
        """No more steps."""


def run_recipe(kind: type[Recipe], config: Any, command: str, show: Show) -> Run:
    """Run a recipe: data, training, samples before and after, export, proof, model card.

    Raises:
        RequestError: the options do not fit together, or name what is not there; nothing is left behind.
        RunError: training or the proof of what it made failed; the run's folder says how far it came.
        Interrupted: stopped by the user, resumable.
    """
    machine = accelerator(config)
    use_threads(config.threads)
    name = config.name or kind.default_name(config)
    run = Run.create(config, command, name, writes=machine.is_main_process and not config.dry_run)
    if config.resume and run.finished and run.steps_taken() >= config.steps:
        show.say(f"The run in {run.folder} is finished; its results are there.")
        return run
    try:
        recipe = _prepared(kind, config, run, show)
        source = recipe.source
        show.say(_overview(recipe, source, config, machine))
        if config.dry_run:
            return run
        prompts = list(config.validation_prompt) or recipe.prompts(source)
        writer = machine.is_main_process
        before = run.samples / "before.png"
        if writer and not before.exists():
            with show.working("Drawing the pictures before"):
                save(grid(recipe.pictures(prompts, SAMPLES), prompts), before)
    except BaseException:
        run.discard()
        raise
    recipe.model.unet.to(machine.device)
    for step in fit(recipe, source, run, machine, show.say):
        if writer:
            run.log(step.row())
        show.step(step, config.steps)
        if writer and config.sample_every and step.step % config.sample_every == 0:
            with step.averaged():
                save(grid(recipe.pictures(prompts, SAMPLES), prompts), run.samples / f"{step.step:07d}.png")
    show.close()
    if writer:
        _conclude(recipe, config, run, prompts, show)
    return run


def _prepared(kind: type[Recipe], config: Any, run: Run, show: Show) -> Recipe:
    with show.working(f"Loading the base {config.base}"):
        model = kind.base(config)
        recipe = kind(config, model)
    with show.working("Reading and encoding the pictures"):
        recipe.source = recipe.data(run)
    for sentence in recipe.source.skipped:
        show.say(f"Left out: {sentence}.")
    return recipe


def _overview(recipe: Recipe, source: Any, config: Any, machine: Any) -> str:
    count = sum(p.numel() for p in recipe.parameters() if p.requires_grad)
    return (
        f"{len(source)} pictures, {config.steps} steps of {source.global_batch} (global batch), {count:,} parameters "
        f"train; {machine.device.type}, {machine.mixed_precision.replace('no', 'fp32')}, "
        f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}."
    )


def _conclude(recipe: Recipe, config: Any, run: Run, prompts: list[str], show: Show) -> None:
    """Samples after, the files, their proof, the model card."""
    with show.working("Drawing the pictures after"):
        after = recipe.pictures(prompts, SAMPLES)
        save(grid(after, prompts), run.samples / "after.png")
        _beside(run, prompts)
    export = recipe.artifact()
    paths = export.write(run.folder, run.name, DTYPES[config.save_precision])
    with show.working("Loading the result as other programs do"):
        proofs = export.prove(paths, LatentDiffusion.load(config.base))
    for sentence in proofs:
        show.say(sentence)
    card.write(run, recipe, config, paths, proofs, prompts)
    show.say(card.closing(run, config, paths, prompts))
