"""`tuner lora`: what its own options do."""

import re
from pathlib import Path

import pytest
import torch

from tuner.adapters.artifact import Artifact
from tuner.config import build
from tuner.errors import RequestError
from tuner.places import place
from tuner.recipe import load_recipe, recipe_class

KIND = recipe_class(load_recipe(place("recipes") / "lora.py"))
FAST = ("--steps", 4, "--batch-size", 2, "--learning-rate", "1e-2", "--samples", 0, "--quiet")


def recipe(base: str, **options):
    config = build(KIND.Config, {"base": base, **options})
    return KIND(config, KIND.base(config))


def losses(folder: Path) -> list[float]:
    import json

    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("variant", ["lora", "dora"])
@pytest.mark.parametrize("how", ["int8", "nf4"])
def test_a_quantised_base_trains_and_its_files_are_proven_on_the_whole_one(
    tuner, tiny_base, images, tmp_path, how, variant
):
    out = tmp_path / "run"
    result = tuner(
        "lora", "--base", tiny_base, "--images", images, "--quantize", how, "--variant", variant, "--out", out, *FAST
    )
    assert result.exit_code == 0, result.stderr
    assert "unloading restores the base exactly" in result.stdout
    assert len(losses(out)) == 4
    assert Artifact.load(out / "pictures.safetensors").metadata["ss_network_dim"] == "16"


@pytest.mark.parametrize("variant", ["loha", "lokr"])
def test_what_peft_cannot_quantise_is_said(tiny_base, variant):
    with pytest.raises(RequestError, match=f"--variant {variant} does not train on a quantised base"):
        recipe(tiny_base, variant=variant, quantize="nf4")


def test_checkpointing_takes_the_same_steps(tuner, tiny_base, images, tmp_path):
    runs = {"kept": (), "anew": ("--gradient-checkpointing",)}
    for name, flags in runs.items():
        call = ("lora", "--base", tiny_base, "--images", images, "--out", tmp_path / name, *FAST, *flags)
        assert tuner(*call, "--train-text-encoder").exit_code == 0
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "anew"), rel=1e-5)


@pytest.mark.parametrize(
    ("targets", "unet", "text"),
    [
        (["attention"], r"attn[12]\.to_(q|k|v|out\.0)", r"self_attn"),
        (["cross-attention"], r"attn2\.to_(q|k|v|out\.0)", r"self_attn"),
        (["feed-forward"], r"ff\.net\.(0\.proj|2)", r"mlp\.fc[12]"),
        (["attention", "convolutions"], r"attn|resnets\.\d+\.conv|samplers\.\d+\.conv", r"self_attn"),
        (["projections"], r"proj_(in|out)", None),
    ],
)
def test_targets_are_the_layers_they_name(tiny_family, targets, unet, text):
    made = recipe(tiny_family("sdxl"), targets=targets, train_text_encoder=True).artifact()
    patterns = {"unet": unet, "text_encoder": text, "text_encoder_2": text}
    for target in made.targets.values():
        assert re.search(patterns[target.part.attribute] or "$.", target.path), target.name
    expected = {name for name, pattern in patterns.items() if pattern}
    assert {target.part.attribute for target in made.targets.values()} == expected


def test_the_text_encoders_have_a_learning_rate_of_their_own(tiny_family):
    made = recipe(tiny_family("sdxl"), train_text_encoder=True, text_learning_rate=1e-5)
    unet, *encoders = made.groups()
    assert "lr" not in unet and [group["lr"] for group in encoders] == [1e-5, 1e-5]
    every = [id(p) for group in made.groups() for p in group["params"]]
    assert len(every) == len(set(every)) == sum(p.requires_grad for p in made.parameters())


def test_rank_and_alpha_reach_the_file(tuner, tiny_base, images, tmp_path):
    call = ("lora", "--base", tiny_base, "--images", images, "--rank", 3, "--alpha", 6, "--out", tmp_path / "run")
    assert tuner(*call, *FAST).exit_code == 0
    tensors = Artifact.load(tmp_path / "run" / "pictures.safetensors").tensors
    assert {t.item() for name, t in tensors.items() if name.endswith(".alpha")} == {6.0}
    assert {t.shape[0] for name, t in tensors.items() if name.endswith("lora_down.weight")} == {3}


def test_half_precision_holds_the_frozen_weights_in_half(tuner, tiny_base, images, tmp_path, monkeypatch):
    held: set[torch.dtype] = set()
    forward = KIND.forward

    def watched(self, batch):
        held.update(p.dtype for p in self.model.unet.parameters() if not p.requires_grad)
        assert {p.dtype for p in self.parameters() if p.requires_grad} == {torch.float32}
        return forward(self, batch)

    monkeypatch.setattr("tuner.training.job.fit", lambda recipe, *rest: _fit(recipe, watched, *rest))
    call = ("lora", "--base", tiny_base, "--images", images, "--precision", "bf16", "--out", tmp_path / "run")
    assert tuner(*call, *FAST).exit_code == 0
    assert held == {torch.bfloat16}


def _fit(recipe, watched, *rest):
    from tuner.training.fit import fit

    recipe.forward = watched.__get__(recipe)
    return fit(recipe, *rest)
