"""The commands' names and summaries, read from the files that hold them without importing any."""

import ast
from pathlib import Path


def summaries(folder: Path) -> dict[str, str]:
    """Command name -> summary, for the recipe files of a folder."""
    return {file.stem.replace("_", "-"): summary(file) for file in sorted(folder.glob("[a-z]*.py"))}


def summary(file: Path) -> str:
    """The first line of a file's docstring."""
    try:
        return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]
    except (SyntaxError, ValueError) as error:
        return f"(cannot be read: {error})"


def recipe_file(folder: Path, command: str) -> Path:
    """Where the recipe of a command is, if it has one."""
    return folder / f"{command.replace('-', '_')}.py"
