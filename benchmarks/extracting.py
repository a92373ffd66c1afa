"""Extract a LoRA from a tuned model by tuner and by kohya's script: how far each is from what was tuned.

    python benchmarks/extracting.py --peer-kohya sd-scripts --peer-python sd-scripts/venv/bin/python

The model is the bundled base; to every layer of its U-Net a difference is added: of rank 4, or of all ranks with
singular values that fall as 1 / k. Errors are relative Frobenius distances to it over the layers that kohya's script
takes. The best that a rank can do is what the singular values beyond it amount to (Eckart & Young). kohya's script
reads single files of the published sizes alone, so its loader is replaced by diffusers'; its network and its
decompositions are its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RANK = 8
CASES = {"of rank 4": 4, "of all ranks": 0}
WAYS = {"tuner": "`tuner extract`", "kohya 0.99": "kohya", "kohya 1": "kohya, `--clamp_quantile 1`"}


def kohya(task: Mapping[str, str], quantile: float) -> None:
    """networks/extract_lora_from_models.py, in this process. Both models get one text encoder, which it passes over."""
    sys.path[:0] = [task["kohya"], f"{task['kohya']}/networks"]
    import extract_lora_from_models as script
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    def load(v2: bool, folder: str) -> tuple[Any, None, Any]:
        torch.manual_seed(0)
        sizes = CLIPTextConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
        return CLIPTextModel(sizes), None, UNet2DConditionModel.from_pretrained(f"{folder}/unet")

    script.model_util.load_models_from_stable_diffusion_checkpoint = load
    script.args = argparse.Namespace(device=None)  # which its function looks for outside itself
    script.svd(
        model_org=task["base"], model_tuned=task["tuned"], save_to=task["out"], dim=RANK, conv_dim=RANK, v2=False,
        sdxl=False, save_precision="float", no_metadata=True, clamp_quantile=quantile,
    )  # fmt: skip


def tuner(task: Mapping[str, str]) -> None:
    """`tuner extract`, in this process."""
    from tuner.commands import app

    app(["extract", task["tuned"], "--from", task["base"], "--rank", str(RANK), "--out", task["out"], "--quiet"])


def timed(task: Mapping[str, str]) -> None:
    """Do a task in this process, and print the processor's seconds."""
    begun = time.process_time()
    try:
        way, _, quantile = task["way"].partition(" ")
        kohya(task, float(quantile)) if way == "kohya" else tuner(task)
    except SystemExit as end:
        if end.code:
            raise
    print("\n" + json.dumps(time.process_time() - begun))


def models(folder: Path, rank: int) -> dict[str, Any]:
    """Save the base and the tuned model; by kohya's names, what was added, in fp64."""
    import torch

    from tuner.adapters.naming import targets, weight_of
    from tuner.models.architecture import save
    from tuner.models.latent_diffusion import LatentDiffusion

    base, generator, added = LatentDiffusion.load("emoji"), torch.Generator().manual_seed(1), {}
    save(base, folder / "base")
    for target in targets(base).values():
        if target.part.attribute == "unet":
            weight = weight_of(base, target).weight
            flat, before = weight.data.flatten(1), weight.data.double()
            u, _, v = torch.linalg.svd(torch.randn(flat.shape, generator=generator), full_matrices=False)
            values = (torch.arange(len(v)) < rank).float() if rank else 1 / torch.arange(1, len(v) + 1)
            weight.data += (0.1 * flat.norm() / values.norm() * (u * values) @ v).view_as(weight)
            added[target.kohya] = weight.data.double() - before
    save(base, folder / "tuned")
    return added


def updates(path: Path, added: Mapping[str, Any]) -> dict[str, Any]:
    """What a file changes every layer by, in fp64."""
    from safetensors.torch import load_file

    wide, found = {name: tensor.double() for name, tensor in load_file(path).items()}, {}
    for name in (key.partition(".")[0] for key in wide if key.endswith(".alpha")):
        down, up = (wide[f"{name}.lora_{role}.weight"].flatten(1) for role in ("down", "up"))
        found[name] = (wide[f"{name}.alpha"] / len(down) * up @ down).view_as(added[name])
    return found


def rows(case: str, folder: Path, asked: argparse.Namespace) -> Iterator[list[str]]:
    """A case's rows of the table."""
    import torch

    added, found, seconds = models(folder, CASES[case]), {}, {}
    for way in WAYS:
        out = folder / f"{way}.safetensors"
        task = {"way": way, "base": f"{folder}/base", "tuned": f"{folder}/tuned", "out": str(out)}
        call = [asked.peer_python if way.startswith("kohya") else sys.executable, __file__, "--peer-kohya"]
        call += [asked.peer_kohya, "--task", json.dumps({**task, "kohya": asked.peer_kohya})]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.run(call, capture_output=True, text=True, env=environment, check=False)
        if process.returncode:
            sys.exit(f"{way} failed:\n{process.stderr[-3000:]}")
        seconds[way], found[way] = json.loads(process.stdout.strip().splitlines()[-1]), updates(out, added)
    common = {name: added[name] for name in found["kohya 1"]}
    size = sum(float(tensor.square().sum()) for tensor in common.values())
    for way, words in WAYS.items():
        lost = sum(float((found[way][name] - wanted).square().sum()) for name, wanted in common.items())
        yield [
            case,
            words,
            f"{(lost / size) ** 0.5:.2g}",
            f"{seconds[way] / seconds['tuner']:.2f}",
            f"{len(found[way])}",
        ]
    tail = sum(float(torch.linalg.svdvals(t.flatten(1))[RANK:].square().sum()) for t in common.values())
    yield [case, "the best there is", f"{(tail / size) ** 0.5:.2g}", "", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-kohya", required=True, help="a checkout of github.com/kohya-ss/sd-scripts")
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has what it needs")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.task:
        timed(json.loads(asked.task))
        return
    print(f"| a difference | rank {RANK} | relative error | CPU time, by ours | layers |\n|{' --- |' * 5}")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows(case, Path(folder), asked):
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
