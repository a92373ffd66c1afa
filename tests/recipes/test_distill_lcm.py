"""`tuner distill-lcm`: its loss is the paper's, by diffusers' own schedulers; its results draw in few steps."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from tuner.adapters.artifact import Artifact
from tuner.adapters.header import manner
from tuner.config import build, read_toml
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.models.samplers import scheduler
from tuner.places import place
from tuner.recipe import load_recipe, recipe_class
from tuner.run import Run
from tuner.sampling.manner import Manner
from tuner.training.fit import fit
from tuner.training.precision import accelerator

FILE = place("recipes") / "distill_lcm.py"
KIND = recipe_class(load_recipe(FILE))
SMALL = {"targets": ["attention"], "rank": 4, "threads": 1}
FAST = (
    "--steps", 2, "--batch-size", 2, "--samples", 0, "--learning-rate", "1e-3", "--rank", 4, "--targets", "attention",
    "--threads", 1, "--quiet",
)  # fmt: skip
WHOLE = ("--steps", 2, "--batch-size", 2, "--samples", 0, "--threads", 1, "--quiet")  # a whole model has no rank
CAT = ("--prompt", "a cat")
FLAGS = "--sampler lcm --steps 4 --guidance 1"


def started(base: str, images: str, out: Path, **options):
    config = build(KIND.Config, {"base": base, "images": images, "out": str(out), **SMALL, **options})
    made = KIND(config, KIND.base(config).to("cpu"))
    run = Run.create(config, "distill-lcm", "it")
    made.source = made.data(run)
    return made, run


def trained(made, run, until: int = 0) -> tuple[dict[str, Tensor], list[float]]:
    losses = []
    for step in fit(made, made.source, run, accelerator(made.config)):
        losses.append(step.loss)
        if step.step == until:
            break
    run.close()
    return {name: p.detach().clone() for name, p in made.named_parameters() if p.requires_grad}, losses


def by_diffusers(base: LatentDiffusion, made, batch, scales: list[float]) -> Tensor:
    """The first loss of each example, by the schedulers of diffusers: (B,)."""
    steps, losses = made.config.teacher_steps, []
    solver, lcm = (
        scheduler(name, {**base.scheduler_config, "original_inference_steps": steps})
        for name in ("ddim-trailing", "lcm")
    )
    x, known = base.noised(batch, t=(batch.draw.integers("step", steps) + 1) * (1000 // steps) - 1), base.told(batch)
    blank = replace(base.encode_prompts([""]), time_ids=None if known.time_ids is None else known.time_ids[:1])
    for row, (t, scale) in enumerate(zip(x.t, scales, strict=True)):
        noisy, its = x.noisy[row : row + 1], known[row : row + 1]
        wanted, unwanted = (base.predict(noisy, t[None], one) for one in (its, blank))
        solver.set_timesteps(steps)
        closer = solver.step(unwanted + scale * (wanted - unwanted), t, noisy).prev_sample
        ends = []
        for there, when in ((noisy, t), (closer, t - 1000 // steps)):
            lcm.set_timesteps(steps)
            end = lcm.step(base.predict(there, when[None], its), when, there).denoised if when > 0 else there
            ends.append(end)
        d = (ends[0] - ends[1]).double()
        losses.append(((d.square() + 1e-6).sqrt() - 1e-3).mean() if made.config.loss == "huber" else d.square().mean())
    return torch.stack(losses)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("sd1", {}),
        ("sd2", {"loss": "l2", "teacher_steps": 20}),
        ("sdxl", {"guidance_min": 2.0, "guidance_max": 9.0}),
        ("sdxl", {"full": True}),
    ],
)
def test_the_loss_is_the_papers(tiny_family, images, tmp_path, family, options):
    made, run = started(tiny_family(family), images, tmp_path / "run", **options)
    run.close()
    batch, base = made.source.batch(3, range(6)), LatentDiffusion.load(tiny_family(family))
    scales = made.scale(batch).tolist()
    low, high = made.config.guidance_min, made.config.guidance_max
    assert all(low <= one <= high for one in scales) and len({*scales}) == (1 if low == high else 6)
    with torch.no_grad():
        ours, theirs = made(batch), by_diffusers(base, made, batch, scales)
    assert ours.shape == (6,) and torch.allclose(ours.double(), theirs, rtol=1e-3, atol=1e-7)


def test_phases_have_another_loss_and_the_smallest_ones_ends_are_the_teachers(tiny_base, images, tmp_path):
    made, run = started(tiny_base, images, tmp_path / "run", phases=50)
    run.close()
    batch = made.source.batch(0, range(6))
    t, then, edge = made.way.at(batch.draw.integers("step", 50))
    x = made.model.noised(batch, t=t)
    with torch.no_grad():
        known, taught = made.model.told(batch), made.taught(x.noisy, t, made.model.told(batch), made.scale(batch))
        d = made.way.end(x.noisy, made.model.predict(x.noisy, t, known), t, edge)
        d = (d - made.way.stepped(x.noisy, taught, t, then)).double()
        whole = KIND(build(KIND.Config, {**made.config.model_dump(), "phases": 1}), KIND.base(made.config).to("cpu"))
        whole.source = made.source
        assert torch.allclose(made(batch).double(), ((d.square() + 1e-6).sqrt() - 1e-3).mean((1, 2, 3)), atol=1e-5)
        assert not torch.allclose(made(batch), whole(batch), rtol=0.1)


def test_in_half_precision_the_lora_learns(tiny_base, images, tmp_path):
    """Weights that autocast first meets without gradients would be taken without them from then on."""
    made, run = started(tiny_base, images, tmp_path / "run", precision="bf16", steps=2, learning_rate=1e-3)
    before = {name: p.detach().clone() for name, p in made.named_parameters() if p.requires_grad}
    after, _ = trained(made, run)
    assert all(not torch.equal(before[name], after[name]) for name in after)


def test_checkpointing_takes_the_same_steps(tiny_base, images, tmp_path):
    losses = []
    for name, options in {"kept": {}, "anew": {"gradient_checkpointing": True}}.items():
        made, run = started(tiny_base, images, tmp_path / name, steps=3, learning_rate=1e-2, **options)
        losses.append(trained(made, run)[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("full", [True, False])
def test_the_student_agrees_with_its_average_where_there_is_one(tiny_base, images, tmp_path, full):
    options = {"full": full, "steps": 4, "save_every": 2, "learning_rate": 1e-3}
    _, plain = trained(*started(tiny_base, images, tmp_path / "plain", **options))
    options["ema"] = 0.9
    made, run = started(tiny_base, images, tmp_path / "whole", **options)
    teacher = {name: tensor.clone() for name, tensor in made.teacher.unet.state_dict().items()}
    whole, losses = trained(made, run)
    assert losses[0] == plain[0] and losses[3] != plain[3]
    if full:
        assert all(torch.equal(tensor, made.teacher.unet.state_dict()[name]) for name, tensor in teacher.items())
    trained(*started(tiny_base, images, tmp_path / "cut", **options), until=3)
    again, later = trained(*started(tiny_base, images, tmp_path / "cut", resume=True, **options))
    assert later == losses[2:] and all(torch.equal(whole[name], again[name]) for name in whole)


def test_prompts_alone_are_enough_and_the_file_says_how_to_draw(tuner, tiny_base, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("a red dog\n# a comment\na cat\n")
    call = ("distill-lcm", "--base", tiny_base, *CAT, "--prompts", tmp_path / "prompts.txt", "--prompt-images", 2)
    result = tuner(*call, *FAST, "--samples", 1, "--teacher-steps", 20, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert "4 pictures, 2 steps" in result.stdout and "both namings give the same picture" in result.stdout
    file = tmp_path / "run" / "tiny-lcm.safetensors"
    assert result.stdout.splitlines()[-1].endswith(f"--adapter {file} --base {tiny_base} {FLAGS}")
    said = Artifact.load(file).metadata
    assert Manner.of({name[6:]: value for name, value in said.items()}) == Manner("lcm", 4, 1.0, 20)
    assert said["modelspec.usage_hint"] == "sampler lcm, 4 steps, guidance 1" and said["ss_network_alpha"] == "4.0"

    monkeypatch.chdir(tmp_path / "run")
    card = Path("README.md").read_text()
    assert "4 steps at CFG 1: in ComfyUI by the sampler `lcm`" in card
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    drawn = tuner("generate", "a cat", "--base", tiny_base, "--adapter", file, "--quiet", "--out", "drawn")
    assert drawn.exit_code == 0, drawn.stderr
    ours = Image.open("drawn/0000.png")
    assert "Steps: 4, Sampler: LCM, CFG scale: 1," in ours.text["parameters"]
    seeded = code.replace("guidance_scale=1)", "guidance_scale=1, generator=torch.Generator().manual_seed(0))")
    exec(f"import torch\n{seeded}", {})
    theirs = Image.open("picture.png")
    assert max(abs(a - b) for a, b in zip(ours.tobytes(), theirs.tobytes(), strict=True)) <= 1
    for flags, said in {("--steps", 3): "Steps: 3, Sampler: LCM", ("--sampler", "euler"): "Sampler: Euler"}.items():
        out = "".join(map(str, flags))
        call = ("generate", "a cat", "--base", tiny_base, "--adapter", file, "--quiet", "--out", out, *flags)
        assert tuner(*call).exit_code == 0
        assert said in Image.open(f"{out}/0000.png").text["parameters"]


def test_a_way_of_two_steps_is_drawn_in_two(tuner, tiny_base, tmp_path):
    result = tuner("distill-lcm", "--base", tiny_base, *CAT, *FAST, "--teacher-steps", 2, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1].endswith("--sampler lcm --steps 2 --guidance 1")
    file = tmp_path / "run" / "tiny-lcm.safetensors"
    drawn = tuner("generate", "a cat", "--base", tiny_base, "--adapter", file, "--quiet", "--out", tmp_path / "drawn")
    assert drawn.exit_code == 0, drawn.stderr


def test_merged_with_others_it_is_drawn_as_before(tuner, tiny_base, images, tmp_path):
    """Else twenty steps with guidance would be taken through what was made for four without."""
    for call in (("distill-lcm", *CAT, "--teacher-steps", 20, "--out", tmp_path / "lcm"),
                 ("lora", "--images", images, "--name", "it", "--out", tmp_path / "it")):  # fmt: skip
        assert tuner(*call, "--base", tiny_base, *FAST).exit_code == 0
    files = [tmp_path / "it" / "it.safetensors", tmp_path / "lcm" / "tiny-lcm.safetensors"]
    made = tuner("merge", *files, "--out", tmp_path / "both.safetensors")
    assert made.exit_code == 0, made.stderr
    assert manner(tmp_path / "both.safetensors") == Manner("lcm", 4, 1.0, 20)


def test_the_sampler_lcm_takes_few_steps_by_itself(tuner, tiny_base, tmp_path):
    call = ("generate", "a cat", "--base", tiny_base, "--sampler", "lcm", "--quiet")
    assert tuner(*call, "--out", tmp_path / "few").exit_code == 0
    assert "Steps: 4, Sampler: LCM, CFG scale: 1," in Image.open(tmp_path / "few" / "0000.png").text["parameters"]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_whole_model_draws_in_plain_diffusers_and_hears_the_guidance(tuner, tiny_family, tmp_path, family):
    import diffusers

    call = ("distill-lcm", "--base", tiny_family(family), *CAT, *WHOLE, "--full", "--learning-rate", 0.01)
    bounds = ("--guidance-min", 2, "--guidance-max", 6, "--teacher-steps", 25)
    result = tuner(*call, *bounds, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "run" / "pipeline"
    assert result.stdout.splitlines()[-1].endswith(f"--base {folder} --sampler lcm --steps 4 --guidance 4")
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert type(pipe.scheduler).__name__ == "LCMScheduler" and pipe.scheduler.config.original_inference_steps == 25
    assert pipe.unet.config.time_cond_proj_dim == 256
    assert pipe.unet.time_embedding.cond_proj.weight.count_nonzero() > 0
    assert "num_inference_steps=4, guidance_scale=4)" in (tmp_path / "run" / "README.md").read_text()

    drawn = tuner("generate", "a cat", "--base", folder, "--quiet", "--out", tmp_path / "drawn")
    assert drawn.exit_code == 0, drawn.stderr
    ours = Image.open(tmp_path / "drawn" / "0000.png")
    assert "Steps: 4, Sampler: LCM, CFG scale: 4," in ours.text["parameters"]
    generator = torch.Generator().manual_seed(0)
    theirs = pipe("a cat", num_inference_steps=4, guidance_scale=4.0, generator=generator).images[0]
    assert max(abs(a - b) for a, b in zip(ours.tobytes(), theirs.tobytes(), strict=True)) <= 1
    again = tuner("distill-lcm", "--base", folder, *CAT, *FAST, "--out", tmp_path / "again")
    assert again.exit_code == 2 and "was distilled already" in again.stderr


def test_phases_are_drawn_by_ddim_in_as_many_steps(tuner, tiny_base, tmp_path):
    call = ("distill-lcm", "--base", tiny_base, *CAT, *FAST, "--phases", 5, "--out", tmp_path / "run")
    result = tuner(*call)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1].endswith("--sampler ddim-trailing --steps 5 --guidance 1")
    card = (tmp_path / "run" / "README.md").read_text()
    assert 'set_alpha_to_one=True, timestep_spacing="trailing")' in card and "the sampler `ddim`" in card


def test_a_quantised_base_is_its_own_teacher(tuner, tiny_base, tmp_path):
    result = tuner("distill-lcm", "--base", tiny_base, *CAT, *FAST, "--quantize", "nf4", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.stderr


def test_samples_before_and_after_are_drawn_in_its_own_manner(tiny_base, images, tmp_path):
    made, run = started(tiny_base, images, tmp_path / "run")
    run.close()
    ours = made.pictures(["a cat"], 1)[0][0]
    generator = torch.Generator().manual_seed(0)
    theirs = LatentDiffusion.load(tiny_base).pipeline("lcm")(
        "a cat", num_inference_steps=4, guidance_scale=1.0, generator=generator
    ).images[0]  # fmt: skip
    assert max(abs(a - b) for a, b in zip(ours.tobytes(), theirs.tobytes(), strict=True)) <= 1


def test_a_base_brings_prompts_for_those_who_have_nothing(tuner, tiny_base, images, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / "training.toml").write_text('[distill-lcm]\nprompt = ["a cat", "a dog"]\nlearning_rate = 2e-3\n')
    (tmp_path / "prompts.txt").write_text("a red dog\n")
    ways = {
        "own": ((), ["a cat", "a dog"], 2e-3, 0.0),
        "file": (("--prompts", tmp_path / "prompts.txt"), [], 2e-3, 0.0),
        "folder": (("--images", images), [], 2e-3, 0.0),
        "said": (("--prompt", "a red cat"), ["a red cat"], 2e-3, 0.0),
        "full": (("--full",), ["a cat", "a dog"], 1e-4, 0.95),
        "both": (("--full", "--learning-rate", 3e-4, "--ema", 0), ["a cat", "a dog"], 3e-4, 0.0),
    }
    for name, (flags, prompts, rate, ema) in ways.items():
        call = ("distill-lcm", "--base", base, *flags, "--steps", 0, "--samples", 0, "--quiet")
        tuner(*call, "--out", tmp_path / name)  # fails in the end, having learned nothing
        values = read_toml(tmp_path / name / "config.toml")
        assert (values["prompt"], values["learning_rate"], values["ema"]) == (prompts, pytest.approx(rate), ema)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((*CAT, "--guidance-min", 0.5), "--guidance-min must be at least 1, not 0.5."),
        ((*CAT, "--guidance-min", 6), "--guidance-min 6 is more than --guidance-max 5"),
        ((*CAT, "--teacher-steps", 1), "--teacher-steps must be at least 2, not 1."),
        ((*CAT, "--teacher-steps", 30), "--teacher-steps 30 does not divide this base's 1000"),
        ((*CAT, "--phases", 4), "--phases 4 does not divide --teacher-steps 50"),
        ((*CAT, "--full", "--quantize", "nf4"), "leave out it or --full"),
        ((*CAT, "--full"), "--rank and --targets are a LoRA's"),
        ((*CAT, "--teacher-steps", 1000), "--teacher-steps 1000 leaves no way"),
        ((*CAT, "--v-like", 1), "--v-like"),
        ((*CAT, "--trigger", "sks"), "--trigger is for a folder of pictures"),
        ((*CAT, "--resolution", 64), "--resolution is for a folder of pictures"),
        (("--images", ".", "--prompt-images", 2), "--prompt-images are drawn of prompts"),
        ((*CAT, "--snr-gamma", 5), "--snr-gamma"),
        ((*CAT, "--loss", "l3"), "--loss must be one of huber, l2, not l3"),
        ((), "There is nothing to learn from"),
        (("--images", "nowhere"), "--images nowhere: there is no such folder."),
        (("--images", ".", *CAT), "Both pictures and prompts are named"),
        (("--prompts", "nowhere.txt"), "--prompts nowhere.txt cannot be read"),
    ],
)
def test_wrong_requests(tuner, tiny_base, tmp_path, monkeypatch, flags, sentence):
    monkeypatch.chdir(tmp_path)
    result = tuner("distill-lcm", "--base", tiny_base, *FAST, *flags, "--out", "run")
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
