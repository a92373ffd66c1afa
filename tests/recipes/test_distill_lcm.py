"""`tuner distill-lcm`: its loss is the paper's, by diffusers' own schedulers; its results draw in few steps."""

from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tuner.config import build
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.models.samplers import scheduler
from tuner.places import place
from tuner.recipe import load_recipe, recipe_class
from tuner.run import Run
from tuner.training.fit import fit
from tuner.training.precision import accelerator

FILE = place("recipes") / "distill_lcm.py"
KIND = recipe_class(load_recipe(FILE))
SMALL = {"targets": ["attention"], "rank": 4, "threads": 1}


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


def by_diffusers(
    base: LatentDiffusion, made, batch, scales: list[float], student: LatentDiffusion, average: LatentDiffusion
) -> Tensor:
    """The loss of each example, by the schedulers of diffusers: (B,)."""
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
        for model, there, when in ((student, noisy, t), (average, closer, t - 1000 // steps)):
            lcm.set_timesteps(steps)
            prediction = model.predict(there, when[None], its, guidance=torch.tensor([scale]))
            ends.append(lcm.step(prediction, when, there).denoised if when > 0 else there)
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
        ours, theirs = made(batch), by_diffusers(base, made, batch, scales, base, base)
    assert ours.shape == (6,) and torch.allclose(ours.double(), theirs, rtol=1e-3, atol=1e-7)


def test_the_teacher_is_the_base_without_the_lora(tiny_base, images, tmp_path):
    """A LoRA that has learned, unlike a new one, would say something else."""
    made, run = started(tiny_base, images, tmp_path / "run")
    run.close()
    with torch.no_grad():
        for seed, (name, p) in enumerate(made.named_parameters()):
            if "lora_B" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))
    batch, base, student = made.source.batch(3, range(6)), LatentDiffusion.load(tiny_base), made.model
    scales = made.scale(batch).tolist()
    with torch.no_grad():
        ours = made(batch).double()
        right, wrong = (by_diffusers(one, made, batch, scales, student, student) for one in (base, student))
    assert torch.allclose(ours, right, rtol=1e-3, atol=1e-7) and not torch.allclose(ours, wrong, rtol=0.05)


def test_a_student_that_has_learned_is_told_the_guidance_and_agrees_with_its_average(tiny_base, images, tmp_path):
    options = {"full": True, "ema": 0.9, "guidance_min": 2.0, "guidance_max": 9.0}
    made, run = started(tiny_base, images, tmp_path / "run", **options)
    run.close()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        torch.nn.init.normal_(made.unet.time_embedding.cond_proj.weight)
        weights = {name: p + 0.02 * torch.randn_like(p) for name, p in made.unet.named_parameters()}
    made.averages = {f"unet.{name}": p for name, p in weights.items()}
    batch, base, average = made.source.batch(3, range(6)), LatentDiffusion.load(tiny_base), copy(made.model)
    average.unet = deepcopy(made.unet)
    average.unet.load_state_dict(weights)
    scales = made.scale(batch).tolist()
    with torch.no_grad():
        ours = made(batch).double()
        assert torch.allclose(ours, by_diffusers(base, made, batch, scales, made.model, average), rtol=1e-3, atol=1e-7)
        for student, other in ((base, average), (made.model, made.model)):
            assert not torch.allclose(ours, by_diffusers(base, made, batch, scales, student, other), rtol=0.05)


def test_the_teacher_of_a_whole_model_is_held_in_half_precision_and_let_go(tiny_base, images, tmp_path):
    made, run = started(tiny_base, images, tmp_path / "run", full=True)
    run.close()
    for model in made.models:
        model.hold_frozen(torch.bfloat16)
    assert {p.dtype for p in made.teacher.unet.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in made.unet.parameters()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        assert made(made.source.batch(0, range(2))).isfinite().all()
    for model in made.models:
        model.forget()
    assert not sum(p.numel() for p in made.teacher.unet.parameters())


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_phases_have_another_loss_and_the_smallest_ones_ends_are_the_teachers(tiny_family, images, tmp_path, family):
    made, run = started(tiny_family(family), images, tmp_path / "run", phases=50)
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
    options = {"full": full, "steps": 4, "save_every": 2, "learning_rate": 1e-3, "ema": 0.0}
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


def test_samples_before_and_after_are_drawn_in_its_own_manner(tiny_base, images, tmp_path):
    made, run = started(tiny_base, images, tmp_path / "run")
    run.close()
    ours = made.pictures(["a cat"], 1)[0][0]
    generator = torch.Generator().manual_seed(0)
    theirs = LatentDiffusion.load(tiny_base).pipeline("lcm")(
        "a cat", num_inference_steps=4, guidance_scale=1.0, generator=generator
    ).images[0]  # fmt: skip
    assert max(abs(a - b) for a, b in zip(ours.tobytes(), theirs.tobytes(), strict=True)) <= 1
