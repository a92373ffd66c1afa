"""The makers' commands that make pages of the docs: figures, tables and pictures, each by one command."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import RequestError

Base = Annotated[str, typer.Option("--base", help="The base.")]
Out = Annotated[Path, typer.Option(help="Folder of the page and its pictures.")]
Runs = Annotated[Path, typer.Option(help="Folder of the runs; finished ones are used again.")]
Subjects = Annotated[list[str] | None, typer.Option(help="A held-out subject; may be given again.")]
Steps = Annotated[int, typer.Option(min=0, help="Optimizer steps; 0 takes the base's own number.")]
DOCS, RUNS = Path("docs"), Path("runs")


def figures(
    model: Annotated[str, typer.Option("--base", help="The base to judge.")] = "emoji",
    count: Annotated[int, typer.Option(min=1, help="Pictures a subject.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder of the page and its pictures.")] = Path("docs"),
) -> None:
    """Judge what the base draws: every subject, on every colour."""
    from .figures import of_base

    print(of_base(model, count, out))


def lora_figures(
    subject: Subjects = None,
    model: Base = "emoji",
    count: Annotated[int, typer.Option(min=2, help="Pictures of each of the twelve prompts of a subject.")] = 4,
    steps: Steps = 0,
    out: Out = DOCS,
    runs: Runs = RUNS,
) -> None:
    """Train a LoRA of each of some held-out subjects; judge the same seeds before and after."""
    from .learning import SUBJECTS, of_lora

    print(of_lora(model, tuple(subject or SUBJECTS), count, out, runs, steps))


def token_figures(
    subject: Subjects = None,
    model: Base = "emoji",
    count: Annotated[int, typer.Option(min=2, help="Pictures of each of the eight prompts of a subject.")] = 4,
    steps: Steps = 0,
    out: Out = DOCS,
    runs: Runs = RUNS,
) -> None:
    """Teach a word for each of some held-out subjects; judge it against what it began from."""
    from .learning import SUBJECTS, of_tokens

    print(of_tokens(model, tuple(subject or SUBJECTS), count, out, runs, steps))


def control_figures(
    model: Base = "emoji",
    scenes: Annotated[int, typer.Option(min=1, help="Scenes that the networks are trained on.")] = 4000,
    examples: Annotated[int, typer.Option(min=2, help="Unseen scenes that they draw after.")] = 240,
    count: Annotated[int, typer.Option(min=2, help="Of each of two subjects, with a LoRA and a token.")] = 32,
    steps: Steps = 0,
    out: Out = DOCS,
    work: Annotated[Path, typer.Option(help="Folder of the scenes and of the networks' runs.")] = RUNS / "control",
    runs: Runs = RUNS,
) -> None:
    """Train control networks for edges; judge them on unseen scenes, and together with a LoRA and a token."""
    from .steering import of_control

    print(of_control(model, scenes, examples, count, out, work, runs, steps))


def judging(
    model: Annotated[str, typer.Option("--base", help="The base to judge.")] = "emoji",
    count: Annotated[int, typer.Option(min=50, help="Pictures of each kind.")] = 500,
    out: Annotated[Path, typer.Option(help="Folder of the page and its pictures.")] = Path("docs"),
) -> None:
    """See whether the figures of `tuner evaluate` come out as they must where that is known."""
    from .judging import of_judging

    print(of_judging(model, count, out))


def teaching_figures(
    subject: Annotated[list[str] | None, typer.Option(help="A held-out subject; may be given again.")] = None,
    model: Annotated[str, typer.Option("--base", help="The base that is taught.")] = "emoji",
    count: Annotated[int, typer.Option(min=1, help="Pictures a subject.")] = 48,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 800,
    out: Annotated[Path, typer.Option(help="Folder of the page and its pictures.")] = Path("docs"),
    work: Annotated[Path, typer.Option(help="Folder of the scenes and the run.")] = Path("runs/taught"),
) -> None:
    """Teach the base some held-out subjects; judge these and its own before and after."""
    from .teaching import SUBJECTS, of_teaching

    print(of_teaching(model, tuple(subject or SUBJECTS), count, steps, out, work))


def merge_figures(
    model: Base = "emoji",
    count: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 4,
    steps: Steps = 0,
    out: Out = DOCS,
    runs: Runs = RUNS,
) -> None:
    """Train LoRAs of two held-out subjects and of a style; merge them by every method, and judge each merge."""
    from .merging import of_merging

    print(of_merging(model, count, out, runs, steps))


def few_step_figures(
    model: Base = "emoji",
    scenes: Annotated[int, typer.Option(min=1, help="Scenes that are distilled on.")] = 4000,
    count: Annotated[int, typer.Option(min=8, help="Pictures a row, about.")] = 1000,
    steps: Steps = 0,
    out: Out = DOCS,
    work: Annotated[Path, typer.Option(help="Folder of the scenes and of the runs.")] = RUNS / "distill-lcm",
    runs: Runs = RUNS,
) -> None:
    """Distil the base on pictures and on prompts alone; judge both in few steps against the base in many."""
    from .few_steps import of_few_steps

    print(of_few_steps(model, scenes, count, out, work, runs, steps))


def ablation_figures(
    model: Base = "emoji",
    target: Annotated[list[str] | None, typer.Option(help="One of the page's targets; may be given again.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="One of the methods; may be given again.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures of a target's prompts, about.")] = 200,
    steps: Steps = 0,
    out: Out = DOCS,
    runs: Annotated[Path, typer.Option(help="Folder of the runs and reports; finished ones are used again.")] = RUNS
    / "ablation",
) -> None:
    """Take things, styles and memorised pictures out of the base by every method; judge what is left."""
    from .erasing import CASES, METHODS, SEVERAL, of_ablation

    cases = [case for case in CASES if not target or case.target in target]
    several = SEVERAL if not target else ()
    methods = {name: more for name, more in METHODS.items() if not method or name in method}
    if not cases or not methods:
        known = ", ".join([*(case.target for case in CASES), *METHODS])
        raise RequestError(f"--target or --method names nothing of the page; choose from {known}.")
    print(of_ablation(model, cases, several, methods, count, out, runs, steps))


def attack_figures(
    model: Base = "emoji",
    subject: Annotated[list[str] | None, typer.Option(help="One of the page's subjects; may be given again.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="How they are taken out; may be given again.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures of each attack.")] = 48,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of the teaching.")] = 800,
    out: Out = DOCS,
    work: Annotated[Path, typer.Option(help="Folder of the bases and the attacks' runs.")] = RUNS / "attacks",
) -> None:
    """Teach subjects, take them out again, and attack what is left, beside a base that never knew them."""
    from .attacking import SUBJECTS, of_attacks
    from .erasing import METHODS

    methods = method or ("default", "uce")  # ours, and the baseline that comes closest on the page of ablation
    subjects = {name: anchor for name, anchor in SUBJECTS.items() if not subject or name in subject}
    if not subjects:
        raise RequestError(f"--subject names nothing of the page; choose from {', '.join(SUBJECTS)}.")
    if not {*methods} <= {*METHODS}:
        raise RequestError(f"--method {', '.join(methods)} is not all known; choose from {', '.join(METHODS)}.")
    print(of_attacks(model, subjects, methods, count, steps, out, work))


PAGES = (
    figures, lora_figures, token_figures, control_figures, judging, teaching_figures, ablation_figures, attack_figures,
    merge_figures, few_step_figures,
)  # fmt: skip
