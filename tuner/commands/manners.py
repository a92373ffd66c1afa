"""How a command ends: exit codes, and one sentence on stderr for whatever went wrong."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from ..errors import Interrupted, RequestError, RunError

STOPPED = 130


def guarded(work: Callable[[], Any], words: list[str], debug: bool) -> int:
    """Do the work of a command line; its exit code.

    Args:
        work: what is to be done; it may return an exit code.
        words: the command line, for the sentence about a word in it.
        debug: print the traceback of an error as well.
    """
    try:
        code = work()
    except BrokenPipeError:  # the reader of our output has gone: nobody is left to be told
        _abandon_stdout()
        return 1
    except KeyboardInterrupt:
        code = STOPPED
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        code, sentence = _verdict(error, words, debug)
        _tell("" if code == STOPPED else "Error: ", sentence)
        return code
    if code == STOPPED:
        _tell("", "Stopped.")
    return code if isinstance(code, int) else 0


def _verdict(error: Exception, words: list[str], debug: bool) -> tuple[int, str]:
    """The exit code and the sentence for an error."""
    if isinstance(error, RequestError):
        return 2, str(error)
    if isinstance(error, RunError):
        return 1, str(error)
    if isinstance(error, Interrupted):
        return STOPPED, str(error)
    if isinstance(error, typer.Abort):
        return STOPPED, "Stopped."
    if isinstance(error, typer.TyperException):
        return error.exit_code, _usage_error(error, words)
    kind, hint = type(error).__name__, "" if debug else "run again with --debug for the details"
    if kind == "OutOfMemoryError" or isinstance(error, MemoryError):
        hint = "the memory does not suffice: try a smaller --batch-size or --resolution"
    reason = " ".join(str(error).split("\n\n")[0].split())[:300].rstrip(".")
    return 1, "; ".join(part for part in (f"{kind}: {reason}" if reason else kind, hint) if part) + "."


def _usage_error(error: typer.TyperException, words: list[str]) -> str:
    """Typer's own complaint about a command line, as a sentence. Its kinds are told apart by what they carry."""
    option = getattr(error, "option_name", None)
    context = getattr(error, "ctx", None)
    if option and hasattr(error, "possibilities"):
        written = next((word for word in words if word.startswith(option)), option).partition("=")[0]
        suggest = getattr(context and context.command, "suggest", None)
        if suggest:
            return suggest(written)
        return f"There is no option {written} before a command; options follow it, as in `tuner COMMAND {written}`."
    if option:
        given = any(word.startswith(f"{option}=") for word in words)
        return f"{option} takes no value." if given else f"{option} needs a value."
    return " ".join(error.format_message().split())


def _tell(prefix: str, sentence: str) -> None:
    if int(os.environ.get("RANK", 0)):  # one of several processes: the first one tells
        return
    try:
        sys.stdout.flush()
        typer.echo(typer.style(prefix, fg="red", bold=True) + sentence, err=True)
    except BrokenPipeError:
        _abandon_stdout()


def _abandon_stdout() -> None:
    """Let the interpreter's last flush go nowhere."""
    with contextlib.suppress(OSError, ValueError):  # not a real file: nothing will be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
