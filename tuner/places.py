"""Where the parts of tuner lie: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def place(name: str) -> Path:
    """The folder `name` (`recipes` or `datasets`), wherever this copy of tuner keeps it."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name
