"""How commands end: the exit code, one sentence on stderr, a traceback only where it is asked for."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tuner.commands import generate
from tuner.commands.show import Bar, Pace, Show, Silent, duration, showing
from tuner.errors import Interrupted, RequestError, RunError

TUNER = [sys.executable, "-m", "tuner"]


def raising(error: BaseException):
    def work(_config):
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (RequestError("No such thing."), 2, "Error: No such thing.\n"),
        (RunError("It broke."), 1, "Error: It broke.\n"),
        (Interrupted("Stopped after step 3."), 130, "Stopped after step 3.\n"),
        (KeyboardInterrupt(), 130, "Stopped.\n"),
        (ZeroDivisionError("by 0"), 1, "Error: ZeroDivisionError: by 0; run again with --debug for the details.\n"),
        (KeyError(), 1, "Error: KeyError; run again with --debug for the details.\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)
def test_exit_codes(tuner, monkeypatch, error, code, told):
    monkeypatch.setattr(generate, "generate", raising(error))
    result = tuner("generate", "a cat")
    assert (result.exit_code, result.stderr) == (code, told)


def test_memory_that_does_not_suffice(tuner, monkeypatch):
    class OutOfMemoryError(RuntimeError):
        pass

    monkeypatch.setattr(generate, "generate", raising(OutOfMemoryError("CUDA out of memory.\n\nA long story.")))
    result = tuner("generate", "a cat")
    assert result.exit_code == 1 and "--batch-size" in result.stderr and "story" not in result.stderr


@pytest.mark.parametrize("call", [["--debug", "generate"], ["generate", "--debug"], ["generate", "a", "--debug", "b"]])
def test_debug_anywhere(tuner, monkeypatch, call):
    monkeypatch.setattr(generate, "generate", raising(RequestError("No such thing.")))
    result = tuner(*call)
    assert result.exit_code == 2
    assert "Traceback" in result.stderr and result.stderr.endswith("Error: No such thing.\n")
    quiet = tuner("generate", "--", "--debug")  # after -- it is a prompt
    assert "Traceback" not in quiet.stderr


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (["genrate"], "There is no command genrate; did you mean generate?"),
        (["zzz"], "There is no command zzz; `tuner --help` lists them."),
        (["--quiet", "lora"], "There is no option --quiet before a command; options follow it, as in "
                              "`tuner COMMAND --quiet`."),
        (["run"], "tuner run needs a recipe file, and needs it first: tuner run FILE.py --images DIR."),
        (["run", "none.py"], "There is no recipe file none.py; name a .py file that holds a class `Recipe`."),
    ],
)  # fmt: skip
def test_wrong_commands(tuner, call, sentence):
    result = tuner(*call)
    assert (result.exit_code, result.stderr) == (2, f"Error: {sentence}\n")


def test_recipe_files_that_are_none(tuner, tmp_path):
    (tmp_path / "torn.py").write_text("x = 1\ndef\n")
    (tmp_path / "empty.py").write_text("")
    torn, empty = tuner("run", tmp_path / "torn.py"), tuner("run", tmp_path / "empty.py")
    assert torn.exit_code == empty.exit_code == 2
    assert "torn.py, line 2: invalid syntax" in torn.stderr and "must define one subclass" in empty.stderr


def test_version(tuner):
    from tuner import __version__

    assert tuner("--version").stdout == f"tuner {__version__}\n"


def test_a_reader_that_goes_away():
    process = subprocess.Popen([*TUNER, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()


def test_ctrl_c(tmp_path):
    """SIGINT while a command imports."""
    wait = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    (tmp_path / "slow.py").write_text(wait)
    restore = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    call = [*TUNER, "run", str(tmp_path / "slow.py")]
    done = subprocess.run(call, capture_output=True, text=True, preexec_fn=restore)
    assert (done.returncode, done.stderr) == (130, "Stopped.\n")


# -- what is shown while a command works -------------------------------------------------------------------------------


def steps(show: Show, count: int) -> None:
    for number in range(1, count + 1):
        show.step(SimpleNamespace(step=number, loss=1.0, seconds=2.0), count)
    show.close()


def test_plain_lines_at_each_tenth(capsys):
    steps(Show(), 200)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"step {20 * k}/200" for k in range(1, 11)]
    assert "loss 1.0000, 2.0 s/step, 6:00 left" in lines[0] and "0:00 left" in lines[-1]


def test_the_bar_fits_80_columns(capsys, monkeypatch):
    from rich.console import Console

    monkeypatch.setenv("TERM", "xterm")
    show = Bar(Console(force_terminal=True, width=80, no_color=True))
    with show.working("Loading"):
        show.count(16, 20, "picture")  # no bar of its own beside the line that turns
    show.step(SimpleNamespace(step=20_000, loss=12.3456, seconds=3.6), 100_000)
    show.close()
    assert "20000/100000 loss 12.3456, 3.6 s/step, 80:00:00 left," in (told := capsys.readouterr().out)
    assert "GiB" in told and "Loading: picture 16/20 ..." in told


def test_which_show(monkeypatch):
    assert type(showing(quiet=False)) is Show  # a test's output is no terminal
    monkeypatch.setitem(os.environ, "RANK", "1")
    assert type(showing(quiet=False)) is Silent


def test_pace_leaves_out_losses_that_are_not_finite_and_pauses():
    pace = Pace()
    for loss, seconds in ((2.0, 0.5), (float("nan"), 0.5), (float("inf"), 99.0), (2.0, 0.5)):
        pace.add(loss, seconds)
    assert pace.words(10).startswith("loss 2.0000, 2.0 steps/s, 0:05 left")
    assert [duration(s) for s in (5, 65, 3661)] == ["0:05", "1:05", "1:01:01"]
