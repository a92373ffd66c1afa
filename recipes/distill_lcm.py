"""Teach a base to draw in four steps instead of twenty: a LoRA beside it, or a whole model of its own.

Latent consistency distillation (Luo et al. 2023, arXiv:2310.04378, algorithm 1): from anywhere on the way from noise to
a picture the student learns to say where the way ends, by agreeing with itself one step of the guided base further on.
With a LoRA (Luo et al. 2023, arXiv:2311.05556) the teacher is the base with its LoRA off. The whole U-Net (`--full`)
has a frozen copy for a teacher, and is told the scale of guidance. The student agrees with the average of its weights
(`--ema`). With `--phases` the way is cut into parts that lead each to an end of its own (Wang et al. 2024,
arXiv:2405.18407), and the student draws in so many steps, without noise in between. It learns from a folder of
pictures, or from prompts alone: the base draws them.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tuner.adapters.artifact import Export
from tuner.adapters.lora import Lora
from tuner.config import common, needless
from tuner.data.batch import Batch
from tuner.data.options import without_folder
from tuner.data.prompted import PromptOptions, prompted, prompts_of
from tuner.data.source import Source
from tuner.errors import RequestError
from tuner.models.conditioning import Conditioning
from tuner.models.consistency import Way, huber, reweighted, tell_guidance
from tuner.models.folder import PipelineFolder
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.models.layers import Layer, add_lora, paths_of
from tuner.models.shifts import unadapted
from tuner.recipe import Recipe, TrainConfig
from tuner.run import Run
from tuner.sampling.guidance import guided
from tuner.sampling.manner import LCM_STEPS, Manner

SLOWER = 20  # than a LoRA a base's own weights learn
NEW = 5  # times as fast as these what is new among them learns
EVERY: list[Layer] = ["attention", "feed-forward", "projections", "convolutions"]


class DistillLcmOptions(PromptOptions, TrainConfig):
    """Options of `tuner distill-lcm`."""

    full: bool = common(False, "Train the whole U-Net, which is told the guidance, and leave a whole model.")
    rank: int = common(64, "Rank of the LoRA.", ge=1, le=1024)
    targets: list[Layer] = Field(EVERY, min_length=1, description="The layers that the LoRA updates; repeatable.")
    guidance_min: float = common(5.0, "Least scale of the teacher's guidance, which the student takes over.", ge=1)
    guidance_max: float = common(5.0, "Greatest such scale; each example has one between the two.", ge=1)
    teacher_steps: int = Field(50, ge=2, description="Steps of the teacher's way; they divide the base's schedule.")
    phases: int = Field(1, ge=1, description="Parts that the way is cut into; they divide the teacher's steps.")
    loss: Literal["huber", "l2"] = Field("huber", description="How far apart two ends are.")
    steps: int = common(1000, "Optimizer steps.", ge=0)
    ema: float = Field(0.95, ge=0, lt=1, description="Decay of the average that it agrees with, which is exported.")


class DistillLcm(Recipe):
    """A student that is the base at first, and its teacher, which stays the base."""

    Config = DistillLcmOptions
    adapts, suite = True, "few-step"

    def __init__(self, config: DistillLcmOptions, model: LatentDiffusion) -> None:
        super().__init__(config, model)
        self.way = Way.of(model, config.teacher_steps, config.phases)
        self.teacher, self.unet = model, model.unet
        if config.full:
            self.teacher = copy(model)
            self.teacher.unet = deepcopy(model.unet)
            tell_guidance(self.unet)
            self.unet.requires_grad_(True)
            return
        add_lora(model.unet, paths_of(config.targets), config.rank, config.seed)

    @property
    def models(self) -> tuple[LatentDiffusion, ...]:
        return (self.model, self.teacher) if self.config.full else (self.model,)

    @classmethod
    def default_name(cls, config: DistillLcmOptions) -> str:
        return f"{Path(config.base).resolve().name.removesuffix('.safetensors')}-lcm"

    @classmethod
    def usual(cls, given: Mapping[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        """A base's own prompts are for those who bring nothing to learn from. One scale of guidance is all where one is
        named. A whole U-Net learns more carefully, and of more than one scale.
        """
        pictures = ("prompt", "prompt_images") if given.get("images") else ("prompt",) if given.get("prompts") else ()
        lora = ("rank", "targets") if given.get("full") else ()
        kept = {name: value for name, value in defaults.items() if name not in (*pictures, *lora)}
        if given.get("full"):
            rate = kept.get("learning_rate", cls.Config.model_fields["learning_rate"].default)
            return {**kept, "learning_rate": rate / SLOWER, "guidance_min": 2.0, "guidance_max": 8.0}
        named = [given[name] for name in ("guidance_min", "guidance_max") if name in given]
        return {**kept, **({"guidance_min": named[0], "guidance_max": named[0]} if len(named) == 1 else {})}

    @classmethod
    def check(cls, config: DistillLcmOptions) -> None:
        low, high = config.guidance_min, config.guidance_max
        wrong = {
            f"--guidance-min {low:g} is more than --guidance-max {high:g}; name a smaller and a greater": low > high,
            f"--phases {config.phases} does not divide --teacher-steps {config.teacher_steps}; change one of them": (
                config.teacher_steps % config.phases
            ),
            f"--quantize {config.quantize} holds weights that cannot train; leave out it or --full": (
                config.full and config.quantize != "none"
            ),
        }
        for sentence, holds in wrong.items():
            if holds:
                raise RequestError(f"{sentence}.")
        needless(config, "distill-lcm, whose loss is of pictures", "snr_gamma", "v_like")
        needless(config, "--full" if config.full else "", "rank", "targets")
        needless(config, "--images" if config.images else "", "prompt_images")
        if prompts_of(config):
            without_folder(config)
        else:
            super().check(config)

    def groups(self) -> list[dict[str, Any]]:
        """All that trains; the layer that is told the guidance is new, and learns faster than what it began with."""
        if not self.config.full or self.config.optimizer == "prodigy":
            return super().groups()
        new = self.unet.time_embedding.cond_proj.weight
        old = [p for p in self.unet.parameters() if p is not new]
        return [{"params": old}, {"params": [new], "lr": NEW * self.config.learning_rate}]

    def data(self, run: Run) -> Source:
        return prompted(self.config, self.teacher)

    def forward(self, batch: Batch) -> Tensor:
        t, then, edge = self.way.at(batch.draw.integers("step", self.way.steps))
        x = self.model.noised(batch, self.config.noise_offset, t)
        told, scale = self.model.told(batch), self.scale(batch)
        mine = self.way.end(x.noisy, self.model.predict(x.noisy, t, told, guidance=scale).float(), t, edge)
        with torch.no_grad():
            closer = self.way.stepped(x.noisy, self.taught(x.noisy, t, told, scale), t, then)
            weights = {name.removeprefix("unet."): value for name, value in self.averages.items()}
            itself = reweighted(self.model, weights) if weights else self.model
            wanted = self.way.end(closer, itself.predict(closer, then, told, guidance=scale).float(), then, edge)
        return huber(mine - wanted) if self.config.loss == "huber" else (mine - wanted).square().mean((1, 2, 3))

    def scale(self, batch: Batch) -> Tensor:
        """The scale of guidance of each example, (B,)."""
        low, high = self.config.guidance_min, self.config.guidance_max
        return low + (high - low) * batch.draw.uniform("guidance")

    def taught(self, noisy: Tensor, t: Tensor, told: Conditioning, scale: Tensor) -> Tensor:
        """What the teacher predicts with guidance of the scales (B,): (B, C, h, w). Its two passes are one."""
        assert self.source.empty is not None
        blank = replace(self.source.empty.to(noisy.device)[[0] * len(told)], time_ids=told.time_ids)
        with nullcontext() if self.config.full else unadapted(self.unet):
            both = self.teacher.predict(noisy.repeat(2, 1, 1, 1), t.repeat(2), Conditioning.cat([told, blank])).float()
        wanted, unwanted = both.chunk(2)
        return guided(unwanted, wanted, scale.view(-1, 1, 1, 1))

    @property
    def manner(self) -> Manner:
        """How pictures are drawn with what comes out."""
        few = ("ddim-trailing", self.way.phases) if self.way.phases > 1 else ("lcm", min(LCM_STEPS, self.way.steps))
        scale = (self.config.guidance_min + self.config.guidance_max) / 2 if self.config.full else 1.0
        return Manner(*few, scale, self.way.steps)

    def prompts(self, source: Source) -> list[str]:
        """Prompts from all over the examples."""
        known = list(dict.fromkeys(source.captions))
        return known[:: -(-len(known) // 4)]

    def artifact(self) -> Export:
        if self.config.full:
            return PipelineFolder(self.model, changed=True, manner=self.manner)
        return Lora.from_model(self.model, {**self.metadata(), **self.manner.metadata()})
