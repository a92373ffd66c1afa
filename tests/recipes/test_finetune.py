"""`tuner finetune`: what trains and what stays, and that its folder is the trained model."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops
from torch import Tensor

from tuner.config import build
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.places import place
from tuner.recipe import load_recipe, recipe_class
from tuner.run import Run
from tuner.training import optimizers
from tuner.training.fit import fit
from tuner.training.precision import accelerator

KIND = recipe_class(load_recipe(place("recipes") / "finetune.py"))
FAST = ("--steps", 3, "--batch-size", 2, "--samples", 0, "--learning-rate", "1e-3", "--threads", 1, "--quiet")


def recipe(base: str, **options):
    config = build(KIND.Config, {"base": base, "threads": 1, **options})
    return KIND(config, KIND.base(config))


def weights(folder: str | Path) -> dict[str, Tensor]:
    """All weights of a diffusers folder, as plain diffusers loads them."""
    networks = LatentDiffusion.load(str(folder)).networks.items()
    return {f"{part}.{name}": tensor for part, network in networks for name, tensor in network.state_dict().items()}


def drawn(pipe, prompt: str) -> Image.Image:
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, num_inference_steps=3, guidance_scale=2.0, generator=generator).images[0]


ATTENTION = r"unet\..*attn[12]\.to_(q|k|v|out\.0)\.(weight|bias)"
CONVOLUTIONS = r"unet\..*(resnets\.\d+\.conv(1|2|_shortcut)|samplers\.0\.conv)\.(weight|bias)"


TEXT = r"text_encoder.*|unet\..*ff\.net\.(0\.proj|2)\.(weight|bias)"


@pytest.mark.parametrize(
    ("family", "flags", "pattern"),
    [
        ("sd1", (), r"unet\..*"),
        ("sd2", ("attention",), ATTENTION),
        ("sdxl", ("cross-attention",), ATTENTION.replace("[12]", "2")),
        ("sdxl", ("attention", "convolutions"), f"{ATTENTION}|{CONVOLUTIONS}"),
        ("sd1", ("projections", "unet"), r"unet\..*"),
        ("sd2", ("feed-forward", "text"), TEXT),
        ("sdxl", ("feed-forward", "text"), TEXT),
    ],
    ids=lambda value: "-".join(value) or "default" if isinstance(value, tuple) else "",
)
def test_the_folder_differs_from_the_base_in_what_was_named(
    tuner, tiny_family, images, tmp_path, family, flags, pattern
):
    base = tiny_family(family)
    asked = [word for name in flags for word in (("--train-text-encoder",) if name == "text" else ("--train", name))]
    result = tuner("finetune", "--base", base, "--images", images, "--out", tmp_path / "run", *FAST, *asked)
    assert result.exit_code == 0, result.stderr
    before, after = weights(base), weights(tmp_path / "run" / "pipeline")
    assert before.keys() == after.keys()
    idle = r"text_encoder\.encoder\.layers\.1\..*|text_encoder\.final_layer_norm\..*" if family == "sdxl" else "$."
    for name, tensor in before.items():
        trains = re.fullmatch(pattern, name) and not re.fullmatch(idle, name)
        assert torch.equal(tensor, after[name]) != bool(trains), name


def test_words_that_no_caption_names_stay_whatever_the_weight_decay(tuner, tiny_base, images, tmp_path):
    call = ("finetune", "--base", tiny_base, "--images", images, "--out", tmp_path / "run", *FAST)
    assert tuner(*call, "--train-text-encoder", "--weight-decay", 0.5).exit_code == 0
    tokens = LatentDiffusion.load(tiny_base).tokenizer
    said = {n for text in ("a teddy bear on red green blue white background",) for n in tokens(text).input_ids}
    said |= set(tokens("", padding="max_length").input_ids)
    name = "text_encoder.embeddings.token_embedding.weight"
    moved = (weights(tiny_base)[name] != weights(tmp_path / "run" / "pipeline")[name]).any(1)
    assert set(moved.nonzero().flatten().tolist()) == said


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_plain_diffusers_draws_with_the_folder_what_the_trained_model_draws(tiny_family, images, tmp_path, family):
    made = recipe(tiny_family(family), images=images, out=str(tmp_path / "run"), steps=3, learning_rate=1e-3)
    run = Run.create(made.config, "finetune", "it")
    made.source = made.data(run)
    for _ in fit(made, made.source, run, accelerator(made.config)):
        pass
    run.close()
    made.requires_grad_(False)  # with weights that require gradients, torch's products round otherwise on a CPU
    made.artifact().write(run.folder, "it", torch.float32)
    import diffusers

    loaded = diffusers.DiffusionPipeline.from_pretrained(run.folder / "pipeline")
    assert type(loaded).__name__ == made.model.family.pipeline
    assert loaded.scheduler.config.prediction_type == ("v_prediction" if family == "sd2" else "epsilon")
    mine, theirs = (drawn(pipe, "a teddy bear") for pipe in (made.model.pipeline("ddim"), loaded))
    assert max(high for _, high in ImageChops.difference(mine, theirs).getextrema()) <= 1
    plain = drawn(LatentDiffusion.load(tiny_family(family)).pipeline("ddim"), "a teddy bear")
    assert plain.tobytes() != mine.tobytes()


def test_the_average_is_what_is_exported(tiny_base, images, tmp_path):
    made = recipe(tiny_base, images=images, out=str(tmp_path / "run"), steps=4, learning_rate=1e-3, ema=0.5)
    run = Run.create(made.config, "finetune", "it")
    made.source = made.data(run)
    weight = made.model.unet.conv_in.weight
    average, decays = weight.detach().clone(), []
    for step in fit(made, made.source, run, accelerator(made.config)):
        decays.append(min(0.5, step.step / (9 + step.step)))  # diffusers' warm-up: (1 + n) / (10 + n), from n = 0
        average = average.lerp(weight.detach(), 1 - decays[-1]) if step.step > 1 else weight.detach().clone()
        last = weight.detach().clone()
    run.close()
    paths = made.artifact().write(run.folder, "it", torch.float32)
    exported = weights(paths[0])["unet.conv_in.weight"]
    assert torch.allclose(exported, average, atol=1e-7) and not torch.allclose(exported, last, atol=1e-6)


def test_prompts_are_encoded_once_where_the_text_encoder_is_frozen(tiny_base, images, tmp_path):
    for trains in (False, True):
        made = recipe(tiny_base, images=images, out=str(tmp_path / str(trains)), train_text_encoder=trains)
        run = Run.create(made.config, "finetune", "it")
        source = made.data(run)
        run.close()
        assert (source.conditioning is None) == trains
        told = made.model.told(source.batch(0, [0, 1])).hidden
        assert told.requires_grad == trains


@pytest.mark.parametrize("optimizer", ["adamw8bit", "adafactor", "prodigy", "muon"])
def test_every_optimizer_takes_its_groups_and_resumes_bit_for_bit(tiny_base, images, tmp_path, optimizer):
    """Kernels too, which lie in memory otherwise than what a checkpoint holds of them (adamw: `test_laws.py`)."""
    rate = optimizers.PREFERRED.get(optimizer, {}).get("learning_rate", 1e-3)
    options = {"images": images, "optimizer": optimizer, "learning_rate": rate, "train_text_encoder": True}

    def trained(out: str, until: int = 0, **more) -> dict[str, Tensor]:
        values = {"base": tiny_base, "out": str(tmp_path / out), "steps": 4, "save_every": 2, "threads": 1}
        config = build(KIND.Config, {**values, **options, **more})
        made, run = KIND(config, KIND.base(config).to("cpu")), Run.create(config, "finetune", "it")
        made.source = made.data(run)
        for step in fit(made, made.source, run, accelerator(config)):
            if step.step == until:
                break
        run.close()
        return {name: p.detach().clone() for name, p in made.named_parameters()}

    whole = trained("whole")
    trained("cut", until=3)
    again = trained("cut", resume=True)
    assert [name for name in whole if not torch.equal(whole[name], again[name])] == []


def test_the_text_encoders_have_a_learning_rate_of_their_own(tiny_family):
    made = recipe(tiny_family("sdxl"), train_text_encoder=True, text_learning_rate=1e-6)
    unet, *encoders = made.groups()
    assert "lr" not in unet and [group["lr"] for group in encoders] == [1e-6] * 4
    every = [id(p) for group in made.groups() for p in group["params"]]
    assert len(every) == len(set(every)) == sum(p.requires_grad for p in made.parameters())


def test_checkpointing_takes_the_same_steps(tuner, tiny_base, images, tmp_path):
    losses = []
    for name, flags in {"kept": (), "anew": ("--gradient-checkpointing",)}.items():
        call = ("finetune", "--base", tiny_base, "--images", images, "--out", tmp_path / name, *FAST, *flags)
        assert tuner(*call, "--train-text-encoder").exit_code == 0
        rows = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(row)["loss"] for row in rows])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_class_pictures_keep_what_the_base_knows(tuner, tiny_base, images, tmp_path):
    call = ("finetune", "--base", tiny_base, "--images", images, "--out", tmp_path / "run", *FAST)
    result = tuner(*call, "--class-prompt", "a cat", "--class-prompt", "a dog", "--class-images", 2)
    assert result.exit_code == 0, result.stderr
    assert "4 pictures and 4 of the base's own" in result.stdout


def test_half_precision_exports_as_asked(tuner, tiny_base, images, tmp_path):
    from tuner.adapters.artifact import Artifact

    call = ("finetune", "--base", tiny_base, "--images", images, "--out", tmp_path / "run", *FAST)
    result = tuner(*call, "--precision", "bf16", "--save-precision", "fp16")
    assert result.exit_code == 0, result.stderr
    held = Artifact.load(tmp_path / "run" / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors").tensors
    assert {tensor.dtype for tensor in held.values()} == {torch.float16}


def test_the_run_says_how_to_use_its_folder(tuner, tiny_base, images, tmp_path, monkeypatch):
    prompt = 'a "teddy" bear'
    call = ("finetune", "--base", tiny_base, "--images", images, "--out", tmp_path / "run", *FAST)
    result = tuner(*call, "--validation-prompt", prompt)
    assert result.exit_code == 0, result.stderr
    assert "diffusers loads the folder, and its parts compute what they computed here" in result.stdout
    assert result.stdout.splitlines()[-1].endswith(f"--base {tmp_path / 'run' / 'pipeline'}")
    monkeypatch.chdir(tmp_path / "run")
    code = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)[0]
    exec(code.replace(").images", ", num_inference_steps=2).images"), {})
    assert Image.open("picture.png").size == (32, 32)
    drawn = tuner("generate", prompt, "--base", "pipeline", "--steps", 2, "--quiet", "--out", "drawn")
    assert drawn.exit_code == 0, drawn.stderr
    assert tuner("lora", "--base", "pipeline", "--images", images, "--out", "on", *FAST).exit_code == 0


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--quantize", "nf4"), "--quantize nf4 holds weights that cannot train"),
        (("--text-learning-rate", "1e-6"), "add --train-text-encoder."),
        (("--train", "vae"), "--train must be one of unet, attention, cross-attention,"),
        (("--targets", "attention"), "--targets"),
        (("--images", "nowhere"), "there is no such folder"),
        (("--save-precision", "fp8"), "--save-precision must be one of"),
    ],
)
def test_wrong_requests(tuner, tiny_base, images, tmp_path, flags, sentence):
    call = ("finetune", "--base", tiny_base, "--images", images, "--out", tmp_path / "run", *FAST)
    result = tuner(*call, *flags)
    assert result.exit_code == 2
    assert sentence in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_model_that_learned_nothing_is_a_failed_run(tuner, tiny_base, images, tmp_path):
    call = ("finetune", "--base", tiny_base, "--images", images, "--out", tmp_path / "run", *FAST)
    result = tuner(*call, "--steps", 0)
    assert result.exit_code == 1 and "draws what the base draws; train longer" in result.stderr
