"""Merge LoRA files of SDXL's size by tuner, by peft and by kohya's scripts: how exact it is, how long, in what memory.

    python benchmarks/merging.py                             # tuner and peft
    python benchmarks/merging.py --peer-kohya sd-scripts     # and a checkout of github.com/kohya-ss/sd-scripts
    python benchmarks/merging.py --peer-kohya sd-scripts --peer-python sd-scripts/venv/bin/python

The files hold random matrices for every linear layer of the attentions of SDXL's published U-Net, where kohya's trainer
puts them by default. Every way runs in a process of its own, in turn with the others, on one thread. It merges two tiny
files first, so that all is imported; then what is measured: reading, merging, hashing, writing. Memory is by how much
the process's peak (ru_maxrss) grows. peft merges live layers, of a model that has nothing else, its weights one number.

Errors are relative Frobenius distances to sum_i w_i (alpha_i / rank_i) B_i A_i in fp64, over one layer of every shape.
The ways that decompose are timed on these layers alone: with all of them kohya's and peft's take hours.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

WAYS = {
    "tuner exact": "`tuner merge`", "peft cat": "peft, `cat`", "peft linear": "peft, `linear`",
    "merge_lora": "kohya, `merge_lora.py`", "merge_lora --concat": "kohya, `merge_lora.py --concat`",
    "sdxl_merge_lora": "kohya, `sdxl_merge_lora.py`",
    "sdxl_merge_lora --concat": "kohya, `sdxl_merge_lora.py --concat`", "tuner svd": "`tuner merge --method svd`",
    "peft svd": "peft, `svd`", "svd_merge_lora": "kohya, `svd_merge_lora.py`",
}  # fmt: skip
CASES = ("fp32", (0.7, 0.5)), ("fp32", (0.7, -0.5)), ("fp16", (0.7, 0.5))
HEADER = {"ss_v2": "False", "ss_base_model_version": "sdxl_base_v1-0", "ss_network_module": "networks.lora"}
Layers = Mapping[str, tuple[int, ...]]
"""kohya's name of a layer -> its weight's shape."""
Run = Callable[[Sequence[str], Sequence[float], str], None]
"""Merge files at weights into another file."""


def tuner(way: str, task: Mapping[str, Any]) -> Run:
    """Our own command, in this process."""
    from tuner.commands import app

    more = ["--method", "svd", "--rank", str(task["rank"])] if way == "svd" else []

    def run(files: Sequence[str], weights: Sequence[float], out: str) -> None:
        words = [f"{file}:{weight}" for file, weight in zip(files, weights, strict=True)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            app(["merge", *words, "--out", out, "--json", *more])

    return run


def peft(way: str, task: Mapping[str, Any]) -> Run:
    """peft's `add_weighted_adapter`, with the arguments that cost the least."""
    import torch
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file, save_file

    def bare(name: str) -> str:
        """peft passes over layers with `lora_` in their names when it merges."""
        return name.removeprefix("lora_")

    def layer(up: torch.Tensor, down: torch.Tensor) -> torch.nn.Linear:
        found = torch.nn.Linear(down.shape[1], up.shape[0], bias=False, device="meta")
        found.weight = torch.nn.Parameter(torch.zeros(1).expand(found.weight.shape), requires_grad=False)
        return found

    def run(files: Sequence[str], weights: Sequence[float], out: str) -> None:
        model, cheap, numbers = None, {"low_cpu_mem_usage": True}, [str(n) for n in range(len(files))]
        for number, file in zip(numbers, files, strict=True):
            tensors = load_file(file)
            names = [key.partition(".")[0] for key in tensors if key.endswith(".alpha")]
            own = {bare(n): (tensors[f"{n}.lora_up.weight"], tensors[f"{n}.lora_down.weight"]) for n in names}
            alpha = float(tensors[f"{names[0]}.alpha"])
            config = LoraConfig(r=task["rank"], lora_alpha=alpha, target_modules="unet_[^.]+")
            if model is None:
                layers = torch.nn.ModuleDict({name: layer(*pair) for name, pair in own.items()})
                model = get_peft_model(layers, config, number, autocast_adapter_dtype=False, **cheap)
            else:
                model.add_adapter(number, config, autocast_adapter_dtype=False, **cheap)
            told = {f"base_model.model.{name}.lora_{role}.weight": tensor
                    for name, pair in own.items() for role, tensor in zip("BA", pair, strict=True)}  # fmt: skip
            set_peft_model_state_dict(model, told, number, **cheap)
        model.add_weighted_adapter(numbers, list(weights), "all", way, svd_full_matrices=False)
        merged, dtype = {}, next(iter(told.values())).dtype
        for name in names:
            found = model.base_model.model[bare(name)]
            merged[f"{name}.lora_down.weight"] = found.lora_A["all"].weight.detach().to(dtype).contiguous()
            merged[f"{name}.lora_up.weight"] = found.lora_B["all"].weight.detach().to(dtype).contiguous()
            merged[f"{name}.alpha"] = torch.tensor(found.scaling["all"] * found.r["all"])
        save_file(merged, out, HEADER)

    return run


def kohya(way: str, task: Mapping[str, Any]) -> Run:
    """A script of sd-scripts, in this process."""
    sys.path[:0] = [task["kohya"], f"{task['kohya']}/networks"]
    name, *flags = way.split()
    script = __import__(name)
    more = ["--new_rank", str(task["rank"])] if name == "svd_merge_lora" else flags
    save = {"fp32": "float", "fp16": "fp16"}[task["precision"]]

    def run(files: Sequence[str], weights: Sequence[float], out: str) -> None:
        words = ["--models", *files, "--ratios", *map(str, weights), "--save_to", out, "--save_precision", save, *more]
        script.merge(script.setup_parser().parse_args(words))

    return run


def measured(task: Mapping[str, Any]) -> dict[str, float]:
    """Do a task in this process, and say what it took: seconds, of them the processor's, MiB."""

    def spent() -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    first, _, way = task["way"].partition(" ")
    run = {"tuner": tuner, "peft": peft}[first](way, task) if first in ("tuner", "peft") else kohya(task["way"], task)
    run([task["small"]] * 2, [0.5, 0.5], task["out"])
    Path(task["out"]).unlink()
    before = spent()
    run(task["files"], task["weights"], task["out"])
    seconds, busy, memory = (now - then for now, then in zip(spent(), before, strict=True))
    return {"seconds": seconds, "busy": busy, "memory": memory, "size": Path(task["out"]).stat().st_size / 2**20}


def written(path: Path, seed: int, where: Layers, rank: int, alpha: float = 8.0) -> str:
    """A file of random matrices, in the precision that its name ends in."""
    import torch
    from safetensors.torch import save_file

    dtype, drawn = {"fp32": torch.float32, "fp16": torch.float16}[path.stem[-4:]], torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (out, width) in where.items():
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, width, generator=drawn).to(dtype)
        tensors[f"{name}.lora_up.weight"] = (torch.randn(out, rank, generator=drawn) / 50).to(dtype)
        tensors[f"{name}.alpha"] = torch.tensor(alpha).to(dtype)
    save_file(tensors, path, {**HEADER, "ss_network_dim": str(rank), "ss_network_alpha": str(alpha)})
    return str(path)


def updates(path: str) -> dict[str, Any]:
    """What a file changes every layer by, in fp64."""
    from safetensors.torch import load_file

    wide, found = {name: tensor.double() for name, tensor in load_file(path).items()}, {}
    for name in (key.partition(".")[0] for key in wide if key.endswith(".alpha")):
        down = wide[f"{name}.lora_down.weight"]
        found[name] = wide[f"{name}.alpha"] / down.shape[0] * wide[f"{name}.lora_up.weight"] @ down
    return found


def error(out: str, files: Sequence[str], weights: Sequence[float]) -> float:
    """The relative Frobenius distance of a merged file to the weighted sum."""
    found, parts, lost, size = updates(out), [updates(file) for file in files], 0.0, 0.0
    for name, update in found.items():
        wanted = sum(weight * part[name] for part, weight in zip(parts, weights, strict=True))
        lost, size = lost + float((update - wanted).square().sum()), size + float(wanted.square().sum())
    return (lost / size) ** 0.5


def done(way: str, files: Sequence[str], weights: Sequence[float], asked: argparse.Namespace) -> dict[str, float]:
    """A merge in a process of its own: what it took, and the file that it leaves beside the others."""
    first, folder = Path(files[0]), Path(files[0]).parent
    small = written(folder / f"small-{first.stem[-4:]}.safetensors", 0, {"lora_unet_mid": (640, 640)}, asked.rank)
    task = {"way": way, "files": files, "weights": weights, "precision": first.stem[-4:], "small": small,
            "out": f"{folder}/out.safetensors", "rank": asked.rank, "kohya": str(asked.peer_kohya)}  # fmt: skip
    python = sys.executable if way.startswith(("tuner", "peft")) else asked.peer_python
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [python, __file__, "--task", json.dumps(task)]
    process = subprocess.run(call, capture_output=True, text=True, env=environment, check=False)
    if process.returncode:
        sys.exit(f"{way} failed:\n{process.stderr[-3000:]}")
    return json.loads(process.stdout.strip().splitlines()[-1])


def errors(ways: Sequence[str], layers: Layers, folder: Path, asked: argparse.Namespace) -> Iterator[list[str]]:
    """The rows of the table of errors."""
    yield ["relative error", *(f"{precision}, weights {w[0]} and {w[1]}" for precision, w in CASES)]
    for way in ways:
        row = [WAYS[way]]
        for precision, weights in CASES:
            files = [written(folder / f"{n}-{precision}.safetensors", n, layers, asked.rank, 8.0 * n) for n in (1, 3)]
            done(way, files, weights, asked)
            row.append(f"{error(f'{folder}/out.safetensors', files, weights):.2g}")
            (folder / "out.safetensors").unlink()
        yield row


def costs(ways: Sequence[str], layers: Layers, folder: Path, asked: argparse.Namespace) -> Iterator[list[str]]:
    """The rows of a table of times and memory: medians, and ratios to the first way, round by round."""
    files = [written(folder / f"{n}-fp16.safetensors", n, layers, asked.rank) for n in range(asked.files)]
    weights = [round(0.3 + 0.02 * n, 2) for n in range(len(files))]
    yield [f"{len(files)} files of {Path(files[0]).stat().st_size / 2**20:.0f} MiB", "CPU time, by the first row's",
           "time, by the first row's", "CPU time", "memory, MiB", "its file, MiB"]  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for way in ways * asked.rounds:
        found[way].append(done(way, files, weights, asked))
        (folder / "out.safetensors").unlink()
    for way, runs in found.items():
        pairs, middle = list(zip(runs, found[ways[0]], strict=True)), {k: median(r[k] for r in runs) for k in runs[0]}
        ratios = [f"{median(a[key] / b[key] for a, b in pairs):.2f}" for key in ("busy", "seconds")]
        yield [WAYS[way], *ratios, f"{middle['busy']:.1f} s", *(f"{middle[key]:,.0f}" for key in ("memory", "size"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-kohya", type=Path, help="a checkout of github.com/kohya-ss/sd-scripts")
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has what it needs")
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--table", choices=["errors", "exact", "svd"], help="this table alone")
    parser.add_argument("--way", action="append", choices=WAYS, help="this way alone; repeatable")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.task:
        print("\n" + json.dumps(measured(json.loads(asked.task))))
        return
    from tuner.adapters.naming import targets
    from tuner.models.architecture import published

    every = {t.kohya: t.shape for name, t in targets(published("sdxl", "meta")).items() if ".attentions." in name}
    one = {name: shape for shape, name in {shape: name for name, shape in every.items()}.items()}
    ways = [way for way in asked.way or WAYS if asked.peer_kohya or way.startswith(("tuner", "peft"))]
    svd = [way for way in ways if "svd" in way]
    tables = {"errors": (errors, ways, one), "exact": (costs, [way for way in ways if way not in svd], every),
              "svd": (costs, svd, one)}  # fmt: skip
    for name, (rows, own, layers) in tables.items():
        if asked.table in (None, name) and own:
            with tempfile.TemporaryDirectory() as folder:
                for number, row in enumerate(rows(own, layers, Path(folder), asked)):
                    print(f"| {' | '.join(row)} |" + (f"\n|{' --- |' * len(row)}" if not number else ""), flush=True)
            print()


if __name__ == "__main__":
    main()
