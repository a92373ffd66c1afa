"""A training job from its options to its proofs: what every training command does, whatever the recipe."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from .. import card, hub
from ..data.sharing import heard
from ..evaluation.sheet import beside, grid, save
from ..randomness import use_threads
from ..run import Run
from ..sampling.precision import DTYPES
from . import tracking
from .estimate import estimate
from .fit import Step, fit
from .precision import accelerator
from .processes import ending, shared

if TYPE_CHECKING:
    from PIL import Image

    from ..recipe import Recipe


class Show(Protocol):
    """What a job tells of itself while it works."""

    def say(self, text: str) -> None:
        """A sentence."""

    def working(self, text: str) -> AbstractContextManager[object]:
        """Something that takes a while and has no steps."""

    def step(self, step: Step, total: int) -> None:
        """An optimizer step was taken."""

    def count(self, done: int, total: int, what: str) -> None:
        """So many of `total` are done."""

    def close(self) -> None:
        """No more steps."""


def run_recipe(kind: type[Recipe], config: Any, command: str, show: Show) -> Run:
    """Run a recipe: data, training, samples before and after, export, proof, model card.

    In several processes, the first one alone writes and speaks.

    Raises:
        RequestError: the options do not fit together, or name what is not there; nothing is left behind.
        RunError: training or the proof of what it made failed; the run's folder says how far it came.
        Interrupted: stopped by the user, resumable.
        SystemExit: in the other processes, where any of these is raised in the first.
    """
    with ending():
        machine = accelerator(config)
        _check(kind, config)
        run, finished = _opened(kind, config, command, machine)
        config = config.model_copy(update={"threads": run.values["threads"]})
        torch.set_num_threads(config.threads)
        try:
            if finished:
                show.say(f"The run in {run.folder} is finished; its results are there.")
            else:
                _work(kind, config, run, machine, show)
            if config.push_to_hub and machine.is_main_process and not config.dry_run:
                with show.working(f"Sending the result to {config.push_to_hub}"):
                    address = hub.push(run.folder, config.push_to_hub)
                show.say(f"It is at {address}.")
            machine.end_training()
        finally:
            show.close()
            run.close()
    return run


def _check(kind: type[Recipe], config: Any) -> None:
    """What can be told before anything is loaded or written."""
    kind.check(config)
    tracking.check(config.track)
    if config.push_to_hub:
        hub.check(config.push_to_hub)


def _opened(kind: type[Recipe], config: Any, command: str, machine: Any) -> tuple[Run, bool]:
    """The run's folder, which the first process opens for all, and whether the run is finished already."""
    opened: list[Run] = []

    def open_it() -> tuple[str, str, dict[str, Any], bool]:
        name = config.name or kind.default_name(config)
        mine = config.model_copy(update={"threads": use_threads(config.threads)})
        run = Run.create(mine, command, name, not config.dry_run, machine.num_processes)
        opened.append(run)
        done = config.resume and run.finished and run.steps_taken() >= config.steps
        return str(run.folder), run.name, run.values, done

    try:
        folder, name, values, done = shared(machine, open_it)
    except BaseException:  # another process has gone before this began
        for run in opened:
            run.discard()
        raise
    return opened[0] if opened else Run(Path(folder), name, values), done


def _work(kind: type[Recipe], config: Any, run: Run, machine: Any, show: Show) -> None:
    writer = machine.is_main_process
    try:
        recipe, prompts = _prepared(kind, config, run, machine, show)
        machine.wait_for_everyone()
    except BaseException:
        run.discard()
        raise
    if config.dry_run:
        with show.working("Trying a batch"):
            cost = estimate(recipe, machine)
        show.say(cost.sentence(config.steps, machine.device.type))
        return
    recipe.begin()
    told = tracking.Tracking(config.track if writer else [], run)
    try:
        for step in fit(recipe, recipe.source, run, machine, show.say):
            if writer:
                run.log(step.row())
                told.step(step)
            show.step(step, config.steps)
            if writer and config.sample_every and step.step % config.sample_every == 0:
                with step.averaged():
                    recipe.model.to(machine.device)
                    sheet = grid(recipe.pictures(prompts, config.samples or 1), prompts)
                    _park(recipe)
                save(sheet, run.samples / f"{step.step:07d}.png")
                told.pictures(sheet, step.step)
        show.close()
        if writer:
            after = _drawn_after(recipe, config, run, prompts, machine, show)
            if after:
                told.pictures(after, config.steps)
            _conclude(recipe, config, run, prompts, machine, show)
    finally:
        told.close()


def _prepared(kind: type[Recipe], config: Any, run: Run, machine: Any, show: Show) -> tuple[Recipe, list[str]]:
    """All up to the first step: the recipe with its data, and the prompts of its samples."""
    with show.working(f"Loading the base {config.base}"):
        recipe = kind(config, kind.base(config).to(machine.device))
        if kind.adapts and machine.mixed_precision != "no":
            for model in recipe.models:
                model.hold_frozen(DTYPES[machine.mixed_precision])
    with show.working("Reading and encoding the pictures"), heard(show.count):
        recipe.source = recipe.data(run)
    for sentence in [*(f"Left out: {clause}." for clause in recipe.source.skipped), *recipe.source.notes]:
        show.say(sentence)
    show.say(_overview(recipe, recipe.source, config, machine))
    prompts = list(config.validation_prompt) or recipe.prompts(recipe.source)
    before = run.samples / "before.png"
    if config.samples and machine.is_main_process and not config.dry_run and not before.exists():
        with show.working("Drawing the pictures before"):
            save(grid(recipe.pictures(prompts, config.samples), prompts), before)
    _park(recipe)
    return recipe, prompts


def _park(recipe: Recipe) -> None:
    """Bring the encoders that do not train off the device: their work is done, and kept."""
    for part in (recipe.model.vae, *recipe.model.text_encoders):
        if not any(p.requires_grad for p in part.parameters()):
            part.to("cpu")


def _overview(recipe: Recipe, source: Any, config: Any, machine: Any) -> str:
    own = f" and {source.prior} of the base's own" if source.prior else ""
    count = sum(p.numel() for p in recipe.parameters() if p.requires_grad)
    threads, processes = torch.get_num_threads(), machine.num_processes
    each = f"{threads} thread{'s' * (threads > 1)}" + f" in each of {processes} processes" * (processes > 1)
    return (
        f"{len(source) - source.prior} pictures{own}, {config.steps} steps of {source.global_batch} (global batch), "
        f"{count:,} parameters train; {machine.device.type}, {machine.mixed_precision.replace('no', 'fp32')}, {each}."
    )


def _drawn_after(
    recipe: Recipe, config: Any, run: Run, prompts: list[str], machine: Any, show: Show
) -> Image.Image | None:
    """Samples after, and the sheet of those before and after; None where no samples are wanted."""
    if not config.samples:
        return None
    recipe.model.to(machine.device)
    with show.working("Drawing the pictures after"):
        save(grid(recipe.pictures(prompts, config.samples), prompts), run.samples / "after.png")
    before = run.samples / "before.png"
    sheet = beside(before, run.samples / "after.png") if before.exists() else None
    if sheet:
        save(sheet, run.samples / "sheet.png")
    return sheet


def _conclude(recipe: Recipe, config: Any, run: Run, prompts: list[str], machine: Any, show: Show) -> None:
    """The files, their proof on a base loaded anew, the model card. The trained model gives way to that base."""
    export = recipe.artifact()
    paths = export.write(run.folder, run.name, DTYPES[config.save_precision])
    with show.working("Loading the result as other programs do"):
        for model in recipe.models:
            model.forget()
        plain = config.model_copy(update={"quantize": "none", "gradient_checkpointing": False})
        proofs = export.prove(paths, type(recipe).base(plain).to(machine.device))
    for sentence in proofs:
        show.say(sentence)
    card.write(run, recipe, config, export.usage(paths, prompts[0]), proofs)
    show.say(card.closing(run, export.flags(paths, config.base), paths, prompts[0]))
