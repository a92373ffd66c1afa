"""Train a few LoRA steps on a full-size Stable Diffusion with random weights, and say what it took.

    python -m benchmarks.full_size                 # SD 1.5, 3 steps at 256 px
    python -m benchmarks.full_size --base sdxl     # another family
    python -m benchmarks.full_size -- --rank 4     # options of `tuner lora` after two dashes

The weights are random: time and memory are those of the real model, pictures are noise. The folder of the model is made
once and kept. Peak memory is the process's own (ru_maxrss), of everything that `tuner lora` does: loading, encoding,
training, export, and the proof in a second pipeline. No sample pictures are drawn: on a CPU each takes minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def base(name: str, folder: Path) -> Path:
    """The diffusers folder of a published architecture with random weights in fp16, made where it is not there yet."""
    if not (folder / "model_index.json").exists():
        import torch

        from tuner.models.architecture import published, save

        print(f"Making {folder} ...", flush=True)
        save(published(name), folder, torch.float16)
    return folder


def peak(process: subprocess.Popen) -> float:
    """The largest resident memory of a process until it ends, in GiB (VmHWM, which the kernel keeps itself)."""
    most = 0.0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            most = max(most, next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")))
        except (OSError, StopIteration):
            pass
        time.sleep(0.2)
    return most / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="sd1", choices=["sd1", "sd2", "sdxl"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "tuner-full-size")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("more", nargs="*", help="options of `tuner lora`")
    asked = parser.parse_args()
    model = base(asked.base, asked.folder / asked.base)
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable, "-m", "tuner", "lora", "--base", str(model), "--out", f"{out}/run",
            "--images", str(ROOT / "datasets" / "teddy_bear"), "--resolution", str(asked.resolution),
            "--steps", str(asked.steps), "--batch-size", "1", "--samples", "0", *asked.more,
        ]  # fmt: skip
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        found: list[float] = []
        watch = threading.Thread(target=lambda: found.append(peak(process)))
        watch.start()
        if process.wait():
            sys.exit(process.returncode)
        watch.join()
        rows = [json.loads(line) for line in Path(f"{out}/run/metrics.jsonl").read_text().splitlines()]
        seconds = sorted(row["seconds"] for row in rows[1:] or rows)
        print(f"{asked.base} at {asked.resolution} px, batch 1, {os.cpu_count()} cores:")
        losses = ", ".join(f"{row['loss']:.3f}" for row in rows)
        print(f"  {seconds[len(seconds) // 2]:.1f} s/step (median without the first), losses {losses}")
        print(f"  {time.perf_counter() - begun:.0f} s in all, peak {found[0]:.2f} GiB")
        for file in sorted(Path(f"{out}/run").rglob("*.safetensors")):
            if "checkpoints" not in file.parts:
                print(f"  {file.relative_to(out)}: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
