"""Distil the bundled base into few steps by tuner and by diffusers' own LCM-LoRA script: how fast, how large, how good.

    python benchmarks/distilling.py                                       # tuner alone
    python benchmarks/distilling.py --peer train_lcm_distill_lora_sd_wds.py --peer-site site

The script is from github.com/huggingface/diffusers, examples/consistency_distillation; `site` is a folder with what it
imports beside our own requirements: `pip install --no-deps --target site "webdataset<0.2.90" braceexpand`. It reads its
pictures with torchvision, in whose stead stand a few functions below, which do the same to pictures of the right size.

Both distil the same scenes with the same rank, layers, batch, steps, learning rate and guidance (the script counts it
from 0), and with what the script has by itself, in a process each, on one thread. The script computes its targets in
bfloat16 wherever it runs, which a CPU without such units does slowly; "in fp32" is the script with that switched off.
First short runs in turns, for the processor's seconds between two optimizer steps (medians, the first ten left out),
which other jobs do not change as they do the clock's (the process that reads the script's pictures is not counted),
and the process's peak memory; then the whole training, once each, whose LoRAs are judged by the suite few-step at the
same seeds. The script encodes its pictures between its steps, tuner all of them once, before the first, with nothing in
its cache: what each takes up to the end of the first step is told beside. Files of other sizes than ours, with our
settings, end it.
"""

import argparse
import io
import itertools
import json
import math
import os
import resource
import runpy
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

SEED, WARM = 9002, 10
OURS, HALF = "`tuner distill-lcm`", "`tuner distill-lcm --precision bf16`"
SAME, HALVED = "diffusers' script in fp32, our settings", "diffusers' script as it is, our settings"
PLAIN = "diffusers' script as it is, its own settings"
LAYERS = ",".join([
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv",
])  # fmt: skip
"""The script's own but for `time_emb_proj`: those that ours trains."""
COLUMNS = ("subject right", "background right", "KID-judge", "recall-judge")


def tuner(task: Mapping[str, Any]) -> Path:
    """Our own command, in this process; its file."""
    from tuner.commands import app

    words = ["distill-lcm", "--base", task["base"], "--images", task["images"], "--steps", str(task["steps"]),
             "--batch-size", str(task["batch"]), "--samples", "0", "--quiet", "--threads", "1", "--name", "it",
             "--save-every", str(task["steps"]), "--cache", f"{task['out']}-cache", "--out", task["out"],
             *task["more"]]  # fmt: skip
    try:
        app(words)
    except SystemExit as end:
        if end.code:
            raise
    return Path(task["out"]) / "it.safetensors"


def diffusers(task: Mapping[str, Any]) -> Path:
    """The script, in this process; its file, with keys that other programs read."""
    import torch
    from safetensors.torch import load_file, save_file

    stand_in()
    if task["way"] == SAME:
        unhalved()
    sys.path.insert(0, task["site"])
    every = str(10 * task["steps"])  # neither checkpoints nor pictures
    sys.argv = [
        task["script"], "--pretrained_teacher_model", task["folder"], "--train_shards_path_or_url", task["shard"],
        "--resolution", "64", "--train_batch_size", str(task["batch"]), "--max_train_steps", str(task["steps"]),
        "--max_train_samples", str(task["scenes"]), "--output_dir", task["out"], "--seed", "0",
        "--dataloader_num_workers", "1", "--checkpointing_steps", every, "--validation_steps", every, *task["more"],
    ]  # fmt: skip
    runpy.run_path(task["script"], run_name="__main__")
    found = load_file(Path(task["out"]) / "unet_lora" / "pytorch_lora_weights.safetensors")
    named = {f"unet.{key.partition('base_model.model.')[2] or key.removeprefix('unet.')}": tensor
             for key, tensor in found.items()}  # fmt: skip
    file = Path(task["out"]) / "it.safetensors"
    save_file({key: tensor.to(torch.float32).contiguous() for key, tensor in named.items()}, file)
    return file


def unhalved() -> None:
    """Switch off what the script does in bfloat16 on a CPU."""
    import torch

    whole = torch.autocast

    def plain(device_type: str, *args: Any, **more: Any) -> Any:
        return whole(device_type, *args, **{**more, "enabled": device_type != "cpu" and more.get("enabled", True)})

    torch.autocast = plain  # type: ignore[assignment, misc]


def stand_in() -> None:
    """What the script takes from torchvision, for pictures that need neither be enlarged nor cut.

    And tokenizers that keep to their own length: the script has 77 in one place, and our base 24.
    """
    import diffusers
    import diffusers.training_utils
    import torch
    import transformers

    assert diffusers.StableDiffusionPipeline and transformers.CLIPTextModel  # before there seems to be a torchvision
    functional, transforms, whole = (ModuleType(f"torchvision{name}") for name in (".functional", ".transforms", ""))

    def to_tensor(picture: Any) -> torch.Tensor:
        import numpy as np

        return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1).float() / 255

    class RandomCrop:
        @staticmethod
        def get_params(picture: Any, output_size: tuple[int, int]) -> tuple[int, int, int, int]:
            assert picture.size == output_size
            return 0, 0, *output_size

    functional.resize = lambda picture, *args, **more: picture  # type: ignore[attr-defined]
    functional.crop = lambda picture, *args: picture  # type: ignore[attr-defined]
    functional.to_tensor = to_tensor  # type: ignore[attr-defined]
    functional.normalize = lambda x, mean, deviation: (x - mean[0]) / deviation[0]  # type: ignore[attr-defined]
    transforms.RandomCrop, transforms.functional = RandomCrop, functional  # type: ignore[attr-defined]
    whole.transforms = transforms  # type: ignore[attr-defined]
    sys.modules |= {"torchvision": whole, "torchvision.transforms": transforms,
                    "torchvision.transforms.functional": functional}  # fmt: skip
    diffusers.training_utils.resolve_interpolation_mode = lambda name: name

    load = transformers.AutoTokenizer.from_pretrained

    def short(*args: Any, **more: Any) -> Any:
        found = load(*args, **more)

        class Short(type(found)):  # type: ignore[misc]
            def __call__(self, *args: Any, max_length: int, **more: Any) -> Any:
                return super().__call__(*args, max_length=min(max_length, self.model_max_length), **more)

        found.__class__ = Short
        return found

    transformers.AutoTokenizer.from_pretrained = short


def measured(task: Mapping[str, Any]) -> dict[str, Any]:
    """Do a task in this process: its file, seconds a step, MiB, seconds up to the first step's end."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    torch.set_num_threads(1)
    ends: list[float] = []
    register_optimizer_step_post_hook(lambda *_: ends.append(time.process_time()))
    run: Callable[[Mapping[str, Any]], Path] = tuner if task["way"] in (OURS, HALF) else diffusers
    start = time.process_time()
    file = run(task)
    steps = [end - start for start, end in itertools.pairwise(ends)][WARM:]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"file": str(file), "seconds": median(steps), "memory": memory, "before": ends[0] - start}


def done(task: Mapping[str, Any]) -> dict[str, Any]:
    """A task in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    call = [sys.executable, __file__, "--task", json.dumps(task)]
    process = subprocess.run(call, capture_output=True, text=True, env=environment, check=False)
    if process.returncode:
        sys.exit(f"{task['way']} failed:\n{process.stderr[-4000:]}")
    return json.loads(process.stdout.strip().splitlines()[-1])


def shard(folder: Path, out: Path) -> Path:
    """The pictures of a folder and their captions as a web data set."""
    with tarfile.open(out, "w") as tar:
        for number, line in enumerate((folder / "metadata.jsonl").read_text().splitlines()):
            row = json.loads(line)
            for suffix, data in (("png", (folder / row["file_name"]).read_bytes()), ("txt", row["text"].encode())):
                entry = tarfile.TarInfo(f"{number:06d}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return out


def tasks(asked: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """The ways, and what each is told but for the steps."""
    from tuner.bundled.figures import known_to
    from tuner.bundled.folders import write_world
    from tuner.models.latent_diffusion import BUNDLED, recommended
    from tuner.training.optimizers import BETAS

    write_world(folder / "scenes", asked.scenes, SEED, subjects=tuple(known_to(asked.base)), mixture=True)
    own = recommended(asked.base, "distill-lcm")
    shared = {"base": asked.base, "folder": str(BUNDLED.get(asked.base, asked.base)), "scenes": asked.scenes,
              "images": str(folder / "scenes"), "batch": own.get("batch_size", 8), "site": str(asked.peer_site),
              "script": str(asked.peer), "shard": str(shard(folder / "scenes", folder / "scenes.tar"))}  # fmt: skip
    scale = own.get("guidance_min", 5.0) - 1
    rate, course = own.get("learning_rate", 1e-4), own.get("lr_scheduler", "constant")
    same = ["--learning_rate", str(rate), "--lr_scheduler", course,
            "--lr_warmup_steps", "0", "--w_min", str(scale), "--w_max", str(scale), "--loss_type", "huber",
            "--lora_rank", str(own.get("rank", 64)), "--lora_alpha", str(own.get("rank", 64)),
            "--lora_target_modules", LAYERS, "--adam_beta2", str(BETAS[1])]  # fmt: skip
    peers = {SAME: same, HALVED: same, PLAIN: ["--lr_warmup_steps", "0"]}
    ways: dict[str, list[str]] = {OURS: [], HALF: ["--precision", "bf16"], **(peers if asked.peer else {})}
    return {way: {**shared, "way": way, "more": more} for way, more in ways.items()}


def costs(ways: Mapping[str, Mapping[str, Any]], asked: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    """The rows of the table of time and memory."""
    own = [way for way in ways if way != PLAIN]
    other = "the script's in fp32" if SAME in own else "the first's"
    yield ["", f"steps a second, by {other}", "seconds a step", "seconds up to the first", "memory, MiB"]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in own}
    for number in range(asked.rounds):
        for way in own:
            out = folder / f"short-{own.index(way)}-{number}"
            found[way].append(done({**ways[way], "steps": asked.short, "out": str(out)}))
    for way, runs in found.items():
        pairs = zip(found.get(SAME, found[OURS]), runs, strict=True)
        ratio = median(peer["seconds"] / mine["seconds"] for peer, mine in pairs)
        middle = {key: median(run[key] for run in runs) for key in ("seconds", "before", "memory")}
        yield [way, f"{ratio:.2f}", f"{middle['seconds']:.3f}", f"{middle['before']:.0f}", f"{middle['memory']:,.0f}"]


def trained(file: Path) -> int:
    """Of a LoRA's file how many weights its matrices have."""
    from safetensors import safe_open

    with safe_open(file, "pt") as held:
        return sum(math.prod(held.get_slice(key).get_shape()) for key in held.keys() if not key.endswith(".alpha"))


def quality(ways: Mapping[str, Mapping[str, Any]], asked: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    """The rows of the table of what judges see."""
    from tuner.bundled.pages import cell
    from tuner.bundled.students import judging, side_by_side
    from tuner.models.latent_diffusion import recommended

    steps = asked.steps or recommended(asked.base, "distill-lcm").get("steps", 1000)
    files = {way: Path(done({**task, "steps": steps, "out": str(folder / f"whole-{number}")})["file"])
             for number, (way, task) in enumerate(ways.items())}  # fmt: skip
    sizes = {way: trained(file) for way, file in files.items() if way != PLAIN}
    if len({*sizes.values()}) > 1:
        sys.exit(f"The ways do not train as many weights: {sizes}")
    config = judging(asked.base, asked.count).model_copy(update={"few": [2, 4]})
    reports = side_by_side(asked.base, files, config)
    head = next(iter(reports.values())).tables[0].head
    columns = [head.index(name) for name in COLUMNS if name in head]
    yield [f"{steps} steps", *(head[i] for i in columns)]
    for number, (way, report) in enumerate(reports.items()):
        for row in report.tables[0].rows:
            name = str(row[0])
            if name.startswith("student") or (not number and "teacher" in name):
                who = way if name.startswith("student") else "the base"
                yield [f"{who}, {name.partition(', ')[2]}", *(str(cell(row[i])) for i in columns)]  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="diffusers' train_lcm_distill_lora_sd_wds.py")
    parser.add_argument("--peer-site", type=Path, help="a folder with webdataset and braceexpand")
    parser.add_argument("--base", default="emoji")
    parser.add_argument("--scenes", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=0, help="of the whole training; 0 is the base's own number")
    parser.add_argument("--short", type=int, default=60, help="steps of the runs that are timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=1000, help="pictures a row, about")
    parser.add_argument("--table", choices=["costs", "quality"], help="this table alone")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.task:
        print("\n" + json.dumps(measured(json.loads(asked.task))))
        return
    with tempfile.TemporaryDirectory() as name:
        ways = tasks(asked, Path(name))
        for table, rows in {"costs": costs, "quality": quality}.items():
            if asked.table in (None, table):
                for number, row in enumerate(rows(ways, asked, Path(name))):
                    print(f"| {' | '.join(row)} |" + (f"\n|{' --- |' * len(row)}" if not number else ""), flush=True)
                print()


if __name__ == "__main__":
    main()
