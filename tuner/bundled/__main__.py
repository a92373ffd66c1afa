"""The makers' commands: `python -m tuner.bundled emoji | world | judge | folders`. Users need none of them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

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
        print(f"{group:14}" + "".join(f"{100 * share:12.2f}" for share in shares.values()))


@app.command()
def folders(out: Annotated[Path | None, typer.Option(help="Where to; datasets unless told.")] = None) -> None:
    """Make the ready-made folders: twelve captioned pictures of each subject that the base does not know."""
    made = ready.write_ready_made(out or place("datasets"))
    print(f"{len(made)} folders of {ready.EACH} pictures in {made[0].parent}")


def main() -> None:
    """Run the command line. A wrong request is one sentence on stderr and exit code 2."""
    try:
        app(prog_name="python -m tuner.bundled")
    except RequestError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
