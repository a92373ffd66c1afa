"""A training job from its options to its proofs: what every training command does, whatever the recipe."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch

from .. import card
from ..evaluation.sheet import beside, grid, save
from ..randomness import use_threads
from ..run import Run
from .fit import Step, fit
from .precision import accelerator

if TYPE_CHECKING:
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
    config = config.model_copy(update={"threads": use_threads(config.threads)})
    name = config.name or kind.default_name(config)
    run = Run.create(config, command, name, writes=machine.is_main_process and not config.dry_run)
    torch.set_num_threads(run.values["threads"])  # a resumed run keeps its own
    if config.resume and run.finished and run.steps_taken() >= config.steps:
        show.say(f"The run in {run.folder} is finished; its results are there.")
        return run
    try:
        recipe = _prepared(kind, config, run, machine, show)
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
    _park(recipe)
    for step in fit(recipe, source, run, machine, show.say):
        if writer:
            run.log(step.row())
        show.step(step, config.steps)
        if writer and config.sample_every and step.step % config.sample_every == 0:
            with step.averaged():
                recipe.model.to(machine.device)
                save(grid(recipe.pictures(prompts, SAMPLES), prompts), run.samples / f"{step.step:07d}.png")
                _park(recipe)
    show.close()
    if writer:
        recipe.model.to(machine.device)
        _conclude(recipe, config, run, prompts, show)
    return run


def _prepared(kind: type[Recipe], config: Any, run: Run, machine: Any, show: Show) -> Recipe:
    with show.working(f"Loading the base {config.base}"):
        recipe = kind(config, kind.base(config).to(machine.device))
    with show.working("Reading and encoding the pictures"):
        recipe.source = recipe.data(run)
    for sentence in recipe.source.skipped:
        show.say(f"Left out: {sentence}.")
    return recipe


def _park(recipe: Recipe) -> None:
    """Bring the encoders that do not train off the device: their work is done, and kept."""
    for part in (recipe.model.vae, recipe.model.text_encoder):
        if not any(p.requires_grad for p in part.parameters()):
            part.to("cpu")


def _overview(recipe: Recipe, source: Any, config: Any, machine: Any) -> str:
    own = f" and {source.prior} of the base's own" if source.prior else ""
    count = sum(p.numel() for p in recipe.parameters() if p.requires_grad)
    threads = torch.get_num_threads()
    return (
        f"{len(source) - source.prior} pictures{own}, {config.steps} steps of {source.global_batch} (global batch), "
        f"{count:,} parameters train; {machine.device.type}, {machine.mixed_precision.replace('no', 'fp32')}, "
        f"{threads} thread{'s' * (threads > 1)}."
    )


def _conclude(recipe: Recipe, config: Any, run: Run, prompts: list[str], show: Show) -> None:
    """Samples after, the files, their proof, the model card."""
    with show.working("Drawing the pictures after"):
        save(grid(recipe.pictures(prompts, SAMPLES), prompts), run.samples / "after.png")
        save(beside(run.samples / "before.png", run.samples / "after.png"), run.samples / "sheet.png")
    export = recipe.artifact()
    paths = export.write(run.folder, run.name, DTYPES[config.save_precision])
    with show.working("Loading the result as other programs do"):
        proofs = export.prove(paths, type(recipe).base(config))
    for sentence in proofs:
        show.say(sentence)
    card.write(run, recipe, config, export.usage(paths, prompts[0]), proofs)
    show.say(card.closing(run, export.flags(paths, config.base), paths, prompts[0]))
