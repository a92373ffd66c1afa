"""Merging holds the result and a few tensors: what the files hold together is never in memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tuner.adapters.artifact import Artifact

FILES, MODULES, RANK, WIDTH = 12, 10, 48, 4096
MIB = 2**20
ONE = 2 * RANK * WIDTH * 4  # bytes of a module's matrices in one file

# The peak before the merge, with all that it imports loaded and a small one done; and behind it
PROBE = """
import resource, sys
from tuner.commands import app

def merge(files, out, *flags):
    try:
        app(["merge", *files, "--out", out, "--json", *flags])
    except SystemExit as end:
        assert not end.code, end.code

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

small, out, *files = sys.argv[1].split(",")
import torch
torch.set_num_threads(1)
torch.linalg.svd(torch.linalg.qr(torch.randn(64, 8))[0])
merge([small, small + ":0.5"], out + ".small.safetensors", *sys.argv[2:])
before = peak()
merge(files, out, *sys.argv[2:])
print("\\nPEAK", peak() - before)
"""


def written(path: Path, seed: int, modules: int = MODULES, width: int = WIDTH) -> Path:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for number in range(modules):
        name = f"lora_unet_down_blocks_{number}_attentions_0_proj_in"
        tensors[f"{name}.lora_down.weight"] = torch.randn(RANK, width, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(width, RANK, generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(8.0)
    Artifact(tensors, {"ss_base_model_version": "sd_v1", "ss_v2": "False"}).save(path)
    return path


@pytest.mark.parametrize(
    ("flags", "output"),
    [
        ((), FILES * MODULES * ONE),
        (("--method", "svd", "--rank", str(RANK)), MODULES * ONE),
        (("--save-precision", "fp16"), FILES * MODULES * ONE // 2),
    ],
    ids=["exact", "svd", "fp16"],
)
def test_the_peak_is_the_output_and_a_few_tensors(flags: tuple[str, ...], output: int, tmp_path: Path) -> None:
    """A few: eight times what all files have of one module, for the matrices, their products and decompositions."""
    small = written(tmp_path / "small.safetensors", 0, 1, 64)
    files = [written(tmp_path / f"{n}.safetensors", n) for n in range(FILES)]
    names = ",".join(map(str, [small, tmp_path / "out.safetensors", *files]))
    done = subprocess.run([sys.executable, "-c", PROBE, names, *flags], capture_output=True, text=True, check=True)
    peak = int(done.stdout.split("PEAK")[1])
    few = 8 * FILES * ONE
    assert few < FILES * MODULES * ONE, "or this would prove nothing"
    assert peak < output + few, f"{peak / MIB:.0f} MiB for an output of {output / MIB:.0f} MiB"
    assert (tmp_path / "out.safetensors").stat().st_size > output
    print(f"{peak / MIB:.0f} MiB, output {output / MIB:.0f} MiB, files {FILES * MODULES * ONE / MIB:.0f} MiB")
