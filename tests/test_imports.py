"""What takes seconds to import is imported only when a command runs."""

import subprocess
import sys

PROBE = """
import sys
from tuner.commands import main

sys.argv = ["tuner", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "diffusers", "transformers", "peft", "accelerate", "datasets", "bitsandbytes", "numpy", "PIL"}
print("IMPORTED", *sorted(heavy & set(sys.modules)))
"""


def test_help_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "lora" in done.stdout
    assert done.stdout.splitlines()[-1] == "IMPORTED"
