"""The makers' commands: `python -m tuner.bundled emoji | world | judge | base | ...`. Users need none of them."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..commands.quiet import turn_down
from ..errors import RequestError
from ..places import place
from . import emoji as pictures
from . import folders as ready
from .page_commands import PAGES

app = typer.Typer(
    help="Makes what tuner brings along: the picture world, its folders, the judge.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Judges = Literal["classifier", "contrast", "both"]
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
    which: Annotated[Judges, typer.Option(help="Which of the two.")] = "both",
    steps: Annotated[int, typer.Option(min=0, help="Optimizer steps; 0 takes the maker's own number.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes, the weights and the order.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder of the files; the bundled one unless told.")] = None,
    keep: Annotated[Path, typer.Option(help="Folder of what an interrupted training goes on from.")] = Path("runs"),
    measure: Annotated[bool, typer.Option("--measure", help="Train nothing; measure the files.")] = False,
) -> None:
    """Train the judges, and measure them on scenes that they never saw."""
    from .exam import table
    from .judges import MAKERS, examined, taught

    accuracies = {}
    for name in MAKERS if which == "both" else (which,):
        file = (out or MAKERS[name].weights.parent) / MAKERS[name].weights.name
        if not measure:
            taught(name, file, seed, steps, keep)
        accuracies[name] = examined(name, file)
    print(table(accuracies))


@app.command()
def base(
    out: Annotated[Path, typer.Argument(help="Folder of the worlds and the runs; the same one goes on.")],
    count: Annotated[int, typer.Option(min=1, help="Scenes in each of the two worlds.")] = 20_000,
    steps: Annotated[int, typer.Option(min=10, help="Steps of each of the last two stages.")] = 4_000,
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
def teach(
    out: Annotated[Path, typer.Argument(help="Folder of the scenes and the run; the same one goes on.")],
    subject: Annotated[list[str], typer.Option(help="A picture's name; may be given again.")],
    model: Annotated[str, typer.Option("--base", help="The base that is taught.")] = "emoji",
    count: Annotated[int, typer.Option(min=1, help="Scenes.")] = 6000,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 800,
) -> None:
    """Teach a base further subjects. The base before is an oracle for them: it never saw them."""
    from ..commands.show import showing
    from .base import teach as taught

    ready.subjects_of(subject, ())
    print(f"The base is in {taught(out, subject, count, steps, model, showing(False))}")


@app.command()
def folders(out: Annotated[Path | None, typer.Option(help="Where to; datasets unless told.")] = None) -> None:
    """Make the ready-made folders: twelve captioned pictures of each subject that the base does not know."""
    made = ready.write_ready_made(out or place("datasets"))
    print(f"{len(made)} folders of {ready.EACH} pictures in {made[0].parent}")


for page in PAGES:
    app.command()(page)


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
