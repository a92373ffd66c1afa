"""`tuner distill-lcm` as a command: how its files are drawn with, in diffusers too, and what it refuses."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from tuner.adapters.artifact import Artifact
from tuner.adapters.header import manner
from tuner.config import read_toml
from tuner.sampling.manner import Manner

FAST = (
    "--steps", 2, "--batch-size", 2, "--samples", 0, "--learning-rate", "1e-3", "--rank", 4, "--targets", "attention",
    "--threads", 1, "--quiet",
)  # fmt: skip
WHOLE = ("--steps", 2, "--batch-size", 2, "--samples", 0, "--threads", 1, "--quiet")  # a whole model has no rank
CAT = ("--prompt", "a cat")
FLAGS = "--sampler lcm --steps 4 --guidance 1"


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

    folder = tmp_path / "baked"
    made = tuner("merge", *files, "--into", tiny_base, "--out", folder)
    assert made.exit_code == 0, made.stderr
    assert made.stdout.splitlines()[-1].endswith(f"--base {folder} {FLAGS}")
    assert tuner("generate", "a cat", "--base", folder, "--quiet", "--out", tmp_path / "drawn").exit_code == 0
    said = Image.open(tmp_path / "drawn" / "0000.png").text["parameters"]
    assert "Steps: 4, Sampler: LCM, CFG scale: 1," in said
    again = tuner("merge", files[0], "--into", folder, "--out", tmp_path / "again")
    assert again.exit_code == 0 and Manner.of_base(str(tmp_path / "again")) == Manner("lcm", 4, 1.0, 20)
    assert again.stdout.splitlines()[-1].endswith(FLAGS)


def test_of_more_steps_than_a_base_has_nothing_was_distilled(tuner, tiny_base, tmp_path):
    assert tuner("distill-lcm", "--base", tiny_base, *CAT, *FAST, "--out", tmp_path / "run").exit_code == 0
    file = Artifact.load(tmp_path / "run" / "tiny-lcm.safetensors")
    Artifact(file.tensors, {**file.metadata, "tuner.teacher_steps": "1500"}).save(tmp_path / "other.safetensors")
    call = ("generate", "a cat", "--base", tiny_base, "--adapter", tmp_path / "other.safetensors", "--quiet")
    drawn = tuner(*call, "--out", tmp_path / "drawn")
    assert drawn.exit_code == 2 and "was distilled from 1500 steps, and this base has 1000" in drawn.stderr


def test_one_bound_of_guidance_is_both(tuner, tiny_base, tmp_path):
    for number, flags in enumerate((("--guidance-min", 7.5), ("--guidance-max", 3))):
        out = tmp_path / str(number)
        result = tuner("distill-lcm", "--base", tiny_base, *CAT, *FAST, *flags, "--out", out)
        assert result.exit_code == 0, result.stderr
        values = read_toml(out / "config.toml")
        assert values["guidance_min"] == values["guidance_max"] == flags[1]


def test_the_sampler_lcm_takes_few_steps_by_itself(tuner, tiny_base, tmp_path):
    call = ("generate", "a cat", "--base", tiny_base, "--sampler", "lcm", "--quiet")
    done = tuner(*call, "--out", tmp_path / "few")
    assert done.exit_code == 0 and "negative" not in done.output
    done = tuner(*call, "--negative", "a dog", "--out", tmp_path / "led")
    assert done.exit_code == 0 and "A negative prompt does nothing at --guidance 1 or less" in done.output
    assert "Steps: 4, Sampler: LCM, CFG scale: 1," in Image.open(tmp_path / "few" / "0000.png").text["parameters"]


@pytest.mark.parametrize(("family", "precision"), [("sd1", "fp32"), ("sdxl", "fp32"), ("sd1", "bf16")])
def test_a_whole_model_draws_in_plain_diffusers_and_hears_the_guidance(tuner, tiny_family, tmp_path, family, precision):
    import diffusers

    call = ("distill-lcm", "--base", tiny_family(family), *CAT, *WHOLE, "--full", "--learning-rate", 0.01)
    bounds = ("--guidance-min", 2, "--guidance-max", 6, "--teacher-steps", 25, "--precision", precision)
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


def test_a_base_brings_prompts_for_those_who_have_nothing(tuner, tiny_base, images, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / "training.toml").write_text(
        '[distill-lcm]\nprompt = ["a cat", "a dog"]\nlearning_rate = 2e-3\nrank = 32\nprompt_images = 2\n'
    )
    (tmp_path / "prompts.txt").write_text("a red dog\n")
    ways = {
        "own": ((), ["a cat", "a dog"], 2e-3, 0.95),
        "file": (("--prompts", tmp_path / "prompts.txt"), [], 2e-3, 0.95),
        "folder": (("--images", images), [], 2e-3, 0.95),
        "said": (("--prompt", "a red cat"), ["a red cat"], 2e-3, 0.95),
        "full": (("--full",), ["a cat", "a dog"], 1e-4, 0.95),
        "both": (("--full", "--learning-rate", 3e-4, "--ema", 0), ["a cat", "a dog"], 3e-4, 0.0),
    }
    for name, (flags, prompts, rate, ema) in ways.items():
        call = ("distill-lcm", "--base", base, *flags, "--steps", 0, "--samples", 0, "--quiet")
        tuner(*call, "--out", tmp_path / name)  # fails in the end, having learned nothing
        values = read_toml(tmp_path / name / "config.toml")
        assert (values["prompt"], values["learning_rate"], values["ema"]) == (prompts, pytest.approx(rate), ema)


def test_flags_in_a_file_of_prompts_are_refused(tuner, tiny_base, tmp_path):
    """They would change what `tuner generate` draws, and nothing here."""
    (tmp_path / "prompts.txt").write_text("a red dog\na cat --w 96 --l 7\n")
    call = ("distill-lcm", "--base", tiny_base, "--prompts", tmp_path / "prompts.txt", *FAST)
    result = tuner(*call, "--out", tmp_path / "run")
    assert result.exit_code == 2 and "prompts.txt, line 2: flags are for `tuner generate`" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((*CAT, "--guidance-min", 0.5), "--guidance-min must be at least 1, not 0.5."),
        ((*CAT, "--guidance-min", 6, "--guidance-max", 5), "--guidance-min 6 is more than --guidance-max 5"),
        ((*CAT, "--teacher-steps", 1), "--teacher-steps must be at least 2, not 1."),
        ((*CAT, "--teacher-steps", 30), "--teacher-steps 30 does not divide this base's 1000"),
        ((*CAT, "--phases", 4), "--phases 4 does not divide --teacher-steps 50"),
        ((*CAT, "--full", "--quantize", "nf4"), "leave out it or --full"),
        ((*CAT, "--full"), "--rank does nothing with --full"),
        ((*CAT, "--teacher-steps", 1000), "--teacher-steps 1000 leaves no way"),
        ((*CAT, "--v-like", 1), "--v-like does nothing with distill-lcm"),
        ((*CAT, "--trigger", "sks"), "--trigger is for a folder of pictures"),
        ((*CAT, "--resolution", 64), "--resolution is for a folder of pictures"),
        (("--images", ".", "--prompt-images", 2), "--prompt-images does nothing with --images"),
        ((*CAT, "--snr-gamma", 5), "--snr-gamma does nothing"),
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
