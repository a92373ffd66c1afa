"""What ablation leaves does outside what it did in training: the exported file, loaded by diffusers alone."""

import numpy as np
import pytest
import torch

from tuner.bundled import world
from tuner.evaluation.panel import Panel
from tuner.models.latent_diffusion import BUNDLED

pytestmark = pytest.mark.slow
SHOWN = [f"a {{}} on a {colour} background" for colour in list(world.COLOURS)[:10]]


def drawn(pipe, name):
    """Ten pictures, one of each prompt, by a pipeline of diffusers."""
    return [
        pipe(line.format(name), num_inference_steps=8, guidance_scale=3.0, generator=torch.manual_seed(seed)).images[0]
        for seed, line in enumerate(SHOWN)
    ]


def test_the_exported_file_erases_through_plain_diffusers_and_unloading_brings_the_base_back(tuner, tmp_path):
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    (tmp_path / "few.toml").write_text('retain = ["a dog on a red background", "a pizza on a blue background"]\n')
    (tmp_path / "lines.txt").write_text("a {} on a red background\na {} on a blue background\n")
    done = tuner("ablate", "--target", "Grumpy Cat", "--anchor", "cat", "--config", tmp_path / "few.toml", "--force",
                 "--prompts", tmp_path / "lines.txt", "--steps", 8, "--samples", 0, "--anchor-images", 1, "--quiet",
                 "--out", tmp_path / "run")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    pipe = StableDiffusionPipeline.from_pretrained(BUNDLED["emoji"], safety_checker=None)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    panel = Panel.load()

    def seen(pictures, name):
        """In how many any judge sees it."""
        return sum(name in (it.subject for it in said) for said in panel.judge(pictures))

    before = drawn(pipe, "grumpy cat")
    assert seen(before, "grumpy cat") == len(before)
    pipe.load_lora_weights(tmp_path / "run" / "diffusers" / "pytorch_lora_weights.safetensors")
    after, dogs = drawn(pipe, "grumpy cat"), drawn(pipe, "dog")
    assert seen(after, "grumpy cat") == 0 and seen(dogs, "dog") >= len(dogs) - 1
    pipe.unload_lora_weights()
    assert all(np.array_equal(*map(np.asarray, both)) for both in zip(drawn(pipe, "grumpy cat"), before, strict=True))
