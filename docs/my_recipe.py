"""Teach a base your own pictures with a LoRA, from noise that lies near them.

KNN noise selection (Li et al. 2025, "Improved Immiscible Diffusion", arXiv:2505.18521): of a few draws of noise the one
that is nearest to a picture's latents is added, so that the ways from different pictures into the noise mix less. The
form before it (Li et al. 2024, arXiv:2406.12303) deals the noise of a batch out among its pictures; here a loss would
then depend on what else is in the batch, and accumulating would change a run.
"""

from dataclasses import replace

import torch
from torch import Tensor

from tuner.adapters.lora import Lora
from tuner.config import common
from tuner.data.batch import Batch
from tuner.models.latent_diffusion import LatentDiffusion, Noised
from tuner.models.layers import paths_of
from tuner.randomness import seed_of
from tuner.recipe import Recipe, TrainConfig


class NearNoiseOptions(TrainConfig):
    """Options of `tuner run docs/my_recipe.py`."""

    candidates: int = common(8, "Draws of noise, of which the nearest is added; 1 is the plain loss.", ge=1)


class NearNoise(Recipe):
    """A LoRA of the U-Net's attention."""

    Config = NearNoiseOptions
    adapts, suite = True, "subject"

    def __init__(self, config: NearNoiseOptions, model: LatentDiffusion) -> None:
        from peft import LoraConfig, inject_adapter_in_model  # takes seconds to import: `--help` need not wait for it

        super().__init__(config, model)
        with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
            torch.manual_seed(seed_of(config.seed, "near-noise"))
            layers = LoraConfig(r=16, lora_alpha=16, target_modules=paths_of(["attention"]))
            self.unet = inject_adapter_in_model(layers, model.unet)

    def near(self, batch: Batch) -> Noised:
        x = self.model.noised(batch)
        noises = batch.draw.normal("candidates", self.config.candidates, *x.latents.shape[1:])  # (B, K, C, h, w)
        nearest = (noises - x.latents[:, None]).square().sum((2, 3, 4)).argmin(1)  # (B,)
        noise = noises[range(len(batch)), nearest]
        noisy, target = self.model.add_noise(x.latents, noise, x.t), self.model.target(x.latents, noise, x.t)
        return replace(x, noise=noise, noisy=noisy, target=target)

    def forward(self, batch: Batch) -> Tensor:
        x = self.near(batch)
        return x.error(self.predict(x.noisy, x.t, batch)) * self.model.loss_weight(x.t, self.config)

    def artifact(self) -> Lora:
        return Lora.from_model(self.model, metadata=self.metadata())
