"""The makers' commands: `python -m tuner.bundled emoji | world | judge | base | ...`. Users need none of them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..commands.quiet import turn_down
from ..errors import RequestError
from ..places import place
from . import emoji as pictures
from . import folders as ready

app = typer.Typer(
    help="Makes what tuner brings along: the picture world, its folders, the judge.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Names = Annotated[list[str] | None, typer.Option(help="A subject; may be given again.")]


@app.command()
def emoji(
    out: Annotated[Path | None, typer.Option(help="Where to; datasets/emoji unless told.")] = None,
    font: Annotated[Path, typer.Option(help="The Noto Color Emoji font.")] = pictures.FONT,
) -> None:
    """Draw every picture of the font, cropped, with its name."""
    if not font.is_file():
        raise RequestError(f"--font {font}: there is no such file; install Noto Color Emoji or say where it is.")
    folder = out or pictures.folder()
    print(f"{pictures.render(folder, font)} pictures in {folder}")


@app.command()
def world(
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    count: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Scene i depends on the seed and on i alone.")] = 0,
    size: Annotated[int, typer.Option(min=8, max=1024, help="The pictures' side in pixels.")] = 64,
    only: Names = None,
    without: Names = None,
    style: Annotated[str, typer.Option(help="All in this style; a mixture unless told.")] = "",
) -> None:
    """Draw scenes as PNG files, with metadata.jsonl: file_name, text, subject, background, style."""
    ready.write_world(out, count, seed, size, ready.subjects_of(only or (), without or ()), style)
    print(f"{count} scenes in {out}")


@app.command()
def judge(
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 1800,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes, the weights and the order.")] = 1,
    out: Annotated[Path | None, typer.Option(help="The file; the bundled one unless told.")] = None,
) -> None:
    """Train the judge and measure it on scenes that it never saw."""
    from ..evaluation.judge import WEIGHTS
    from . import judge as maker

    trained = maker.train(steps, seed)
    accuracy = maker.measure(trained)
    maker.save(trained, accuracy, seed, steps, out or WEIGHTS)
    print(f"{'right in %':14}" + "".join(f"{head:>12}" for head in accuracy["all"]))
    for group, shares in accuracy.items():
        cells = (f"{100 * shares[head]:.2f}" if head in shares else "-" for head in accuracy["all"])
        print(f"{group:14}" + "".join(f"{cell:>12}" for cell in cells))


@app.command()
def base(
    out: Annotated[Path, typer.Argument(help="Folder of the worlds and the runs; the same one goes on.")],
    count: Annotated[int, typer.Option(min=1, help="Scenes in each of the two worlds.")] = 20_000,
    steps: Annotated[int, typer.Option(min=10, help="Steps of the last stage.")] = 12_000,
    start: Annotated[str, typer.Option(help="`new`, or a model whose last stage goes on.")] = "new",
    install: Annotated[bool, typer.Option(help="Make the result the bundled base.")] = False,
) -> None:
    """Train the base: an autoencoder on crops and on pictures, then U-Net and text encoder. Resumes."""
    from ..commands.show import showing
    from . import base as maker

    pipeline = maker.train(out, count, steps, start, showing(False))
    if install:
        maker.install(pipeline)
    print(f"The base is in {maker.BASE if install else pipeline}")


@app.command()
def figures(
    model: Annotated[str, typer.Option("--base", help="The base to judge.")] = "emoji",
    count: Annotated[int, typer.Option(min=1, help="Pictures a subject.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder of the page and its pictures.")] = Path("docs"),
) -> None:
    """Judge what the base draws: every subject, on every colour."""
    from .figures import of_base

    print(of_base(model, count, out))


@app.command()
def lora_figures(
    subject: Annotated[list[str] | None, typer.Option(help="A held-out subject; may be given again.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures a subject.")] = 32,
    out: Annotated[Path, typer.Option(help="Folder of the page and its pictures.")] = Path("docs"),
    runs: Annotated[Path, typer.Option(help="Folder of the runs; finished ones are used again.")] = Path("runs"),
) -> None:
    """Train a LoRA of each of some held-out subjects; judge the same seeds before and after."""
    from .figures import SUBJECTS, of_lora

    print(of_lora("emoji", tuple(subject or SUBJECTS), count, out, runs))


@app.command()
def folders(out: Annotated[Path | None, typer.Option(help="Where to; datasets unless told.")] = None) -> None:
    """Make the ready-made folders: twelve captioned pictures of each subject that the base does not know."""
    made = ready.write_ready_made(out or place("datasets"))
    print(f"{len(made)} folders of {ready.EACH} pictures in {made[0].parent}")


def main() -> None:
    """Run the command line. A wrong request is one sentence on stderr and exit code 2."""
    turn_down()
    try:
        app(prog_name="python -m tuner.bundled")
    except RequestError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
