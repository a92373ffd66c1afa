"""The laws that every recipe obeys, present and future: each test runs over every file in recipes/, and over the
tutorial's, which stands for all files from outside.

On the smallest base with each choice that the recipe's own options offer, and on the shrunk SD 1.x, 2.x and SDXL.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import torch

from tuner.adapters.artifact import Artifact
from tuner.config import build, read_toml, write_toml
from tuner.places import place
from tuner.recipe import Recipe, TrainConfig, load_recipe, recipe_class
from tuner.run import Run
from tuner.training.fit import fit
from tuner.training.job import run_recipe
from tuner.training.precision import accelerator

FAMILIES = ("sd1", "sd2", "sdxl")
TUTORIAL = Path(__file__).parents[2] / "docs" / "my_recipe.py"
RECIPES = [*sorted(place("recipes").glob("[a-z]*.py")), TUTORIAL]
OPTIONS = {"steps": 4, "batch_size": 2, "learning_rate": 1e-3, "save_every": 2, "threads": 1, "seed": 3, "samples": 1}


class Silent:
    """A Show that keeps what it is told."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def working(self, text):
        from contextlib import nullcontext

        return nullcontext()

    def count(self, done, total, what):
        pass

    def step(self, step, total):
        pass

    def close(self):
        pass


def choices(kind: type[Recipe]) -> list[dict]:
    """The recipe's defaults, and every other choice of its own options: each value of a Literal, each switch turned."""
    fixed = {*TrainConfig.model_fields, *kind.example}
    own = {name: field for name, field in kind.Config.model_fields.items() if name not in fixed}
    found: list[dict] = [{}]
    for name, field in own.items():
        many = get_origin(field.annotation) is list
        kind_of = get_args(field.annotation)[0] if many else field.annotation
        values = get_args(kind_of) if get_origin(kind_of) is Literal else [not field.default] if kind_of is bool else []
        offered = [[value] if many else value for value in values]
        found += [{name: value} for value in offered if value != field.default]
    return found


def cases(variants: bool = True) -> list:
    """(recipe file, base, options): the tiny base with every choice, each family with all but the lists of layers.

    Of the families, each choice is made on one, in turns; what it does on the others is slow.

    Args:
        variants: without, each family with the defaults alone.
    """
    found = []
    for file in RECIPES:
        for number, chosen in enumerate(choices(recipe_class(load_recipe(file)))):
            said = "-".join(str(v[0] if isinstance(v, list) else f"{k}={v}") for k, v in chosen.items()) or "default"
            lists = any(isinstance(value, list) for value in chosen.values())
            for base in ("tiny",) if lists or (chosen and not variants) else ("tiny", *FAMILIES):
                aside = chosen and base != "tiny" and base != FAMILIES[number % len(FAMILIES)]
                marks = [pytest.mark.slow] if aside else []
                found.append(pytest.param((file, base, chosen), id=f"{file.stem}-{base}-{said}", marks=marks))
    return found


@pytest.fixture(params=cases())
def case(request) -> tuple[Path, str, dict]:
    return request.param


@pytest.fixture
def kind(case) -> type[Recipe]:
    return recipe_class(load_recipe(case[0]))


@pytest.fixture
def options(case, kind, tiny_base: str, tiny_family, images: str) -> dict:
    _, base, chosen = case
    return {
        **OPTIONS,
        "base": tiny_base if base == "tiny" else tiny_family(base),
        "images": images,
        **kind.example,
        **chosen,
    }


def started(kind, out: Path, /, **options):
    """A recipe with its source and run, ready for `fit`."""
    recipe, run = prepared(kind, out, **options)
    recipe.begin()
    return recipe, run


def prepared(kind, out: Path, /, **options):
    """The same before anything was solved."""
    config = build(kind.Config, {"out": str(out), **options})
    run = Run.create(config, "test", "it")
    recipe = kind(config, kind.base(config).to("cpu"))  # as a job does: it lays weights out for speed
    recipe.source = recipe.data(run)
    return recipe, run


def trained(recipe: Recipe) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in recipe.named_parameters() if p.requires_grad}


def fitted(kind, out: Path, /, **options):
    """The parameters after training, and the rows of the steps."""
    recipe, run = started(kind, out, **options)
    rows = [step.row() for step in fit(recipe, recipe.source, run, accelerator(recipe.config))]
    run.close()
    return trained(recipe), rows


def assert_equal(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"{len(different)} of {len(one)} tensors differ, the first: {different[0]}"


def test_only_and_all_declared_parameters_change(kind, options, tmp_path):
    recipe, run = started(kind, tmp_path / "run", **options)
    networks = recipe.model.networks.items()
    tensors = {f"{part}.{n}": p for part, module in networks for n, p in module.named_parameters()}
    inside = {id(p) for p in tensors.values()}  # what the recipe brings along besides has to change as well
    tensors |= {f"recipe.{n}": p for n, p in recipe.named_parameters() if id(p) not in inside}
    declared = {id(p) for p in recipe.parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in tensors.items()}
    for _ in fit(recipe, recipe.source, run, accelerator(recipe.config)):
        pass
    changed = {name for name, p in tensors.items() if not torch.equal(before[name], p)}
    wanted = {name for name, p in tensors.items() if id(p) in declared}
    assert changed - wanted == set()
    unused = {name for name in wanted - changed if not _reached(tensors[name], before[name], name)}
    assert unused == set()


def _reached(now, before, name) -> bool:
    """Rows of an embedding table that no caption names are not reached by any gradient."""
    return "embedding" in name and now.ndim == 2


def test_kill_and_resume_equals_never_stopped(kind, options, tmp_path):
    whole, rows = fitted(kind, tmp_path / "whole", **options)
    recipe, run = started(kind, tmp_path / "cut", **options)
    steps = fit(recipe, recipe.source, run, accelerator(recipe.config))
    for step in steps:
        recipe.model.to("cpu")  # as a job does before it draws samples, which must leave no trace
        if step.step == 3:  # after the checkpoint of step 2: step 3 is lost
            break
    steps.close()
    run.close()
    torch.manual_seed(99)  # global state must not matter
    resumed, later = fitted(kind, tmp_path / "cut", resume=True, **options)
    assert [row["step"] for row in later] == [3, 4]
    assert [row["loss"] for row in later] == [row["loss"] for row in rows[2:]]
    assert_equal(whole, resumed)


def test_accumulating_equals_one_batch(kind, options, tmp_path):
    _, rows = fitted(kind, tmp_path / "one", **{**options, "batch_size": 4, "accumulate": 1})
    _, split_rows = fitted(kind, tmp_path / "other", **{**options, "batch_size": 1, "accumulate": 4})
    for mine, theirs in zip(rows, split_rows, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)  # Adam's first steps multiply what rounding left
        assert mine["images"] == theirs["images"]
    first = lambda rows: (rows[0]["loss"], rows[0]["grad_norm"])  # noqa: E731
    assert first(rows) == pytest.approx(first(split_rows), rel=1e-5)


@pytest.mark.parametrize("case", cases(variants=False), indirect=True)
def test_config_toml_reproduces_the_run(kind, options, case, tmp_path):
    options = {**options, "samples": int(case[1] == "tiny"), "validation_prompt": ["a teddy bear"]}
    show = Silent()
    first = run_recipe(kind, build(kind.Config, {**options, "out": str(tmp_path / "first")}), "test", show)
    first.close()
    assert show.said[-1].startswith(f"Done. Everything is in {first.folder}")
    values = read_toml(first.folder / "config.toml")
    assert values.pop("command") == "test"
    values["out"] = str(tmp_path / "second")
    second = run_recipe(kind, build(kind.Config, values), "test", Silent())
    second.close()
    assert _tensors(first.folder) == _tensors(second.folder)
    assert [r["loss"] for r in first.metrics()] == [r["loss"] for r in second.metrics()]


def _tensors(folder: Path) -> dict:
    files = [p for p in folder.rglob("*.safetensors") if "checkpoints" not in p.parts]
    assert files
    return {
        f"{file.relative_to(folder)}:{name}": tensor.float().sum().item()
        for file in files
        for name, tensor in Artifact.load(file).tensors.items()
    }


def test_at_step_0_nothing_has_changed(kind, options, tmp_path):
    recipe, _ = prepared(kind, tmp_path / "run", **options)
    plain, changed = kind.base(recipe.config).to("cpu"), recipe.model
    recipe.requires_grad_(False)  # with weights that require gradients, torch's products round otherwise on a CPU
    batch, t = recipe.source.batch(0, [0, 1]), torch.tensor([500, 20])
    noise = torch.randn(2, 4, 8, 8) if batch.moments is None else torch.randn_like(batch.moments.chunk(2, 1)[0])
    with torch.no_grad():
        told = plain.encode_prompts(["a teddy bear on a red background"])
        again = changed.encode_prompts(["a teddy bear on a red background"])
        assert torch.equal(told.hidden, again.hidden)
        assert torch.equal(plain.predict(noise[:1], t[:1], told), changed.predict(noise[:1], t[:1], again))
        assert torch.equal(plain.predict(noise, t, plain.told(batch)), recipe.predict(noise, t, batch))


@pytest.mark.slow
def test_killed_process_resumes_bit_for_bit(case, options, tmp_path):
    """The same law with a real process and a real kill -9."""
    told = tmp_path / "options.toml"
    told.write_text(write_toml({**options, "steps": 60, "save_every": 5}))
    call = [sys.executable, "-m", "tuner", "run", str(case[0]), "--config", str(told), "--quiet", "--out"]
    subprocess.run([*call, str(tmp_path / "whole")], check=True)
    process = subprocess.Popen([*call, str(tmp_path / "cut")])
    while len(list((tmp_path / "cut" / "checkpoints").glob("[0-9]*"))) < 2:
        time.sleep(0.05)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([*call, str(tmp_path / "cut"), "--resume"], check=True)
    assert _tensors(tmp_path / "whole") == _tensors(tmp_path / "cut")
