"""Teach a base your own pictures with a LoRA: a small low-rank file beside the base.

LoRA (Hu et al. 2021, arXiv:2106.09685): each chosen weight W becomes W + (alpha / rank) B A, where only A and B train
and B starts at zero, so that at step 0 nothing has changed. The loss is the base's own (latent diffusion, Rombach et
al. 2022, arXiv:2112.10752, eq. 2). Targets are attention's q, k, v and out together: text-encoder files of fewer are
refused by some loaders.
"""

import torch
from pydantic import Field
from torch import Tensor

from tuner.adapters.lora import Lora as LoraFile
from tuner.config import common
from tuner.data.batch import Batch
from tuner.data.source import Source, imagined, pictures, with_latents, with_prompts
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.randomness import seed_of
from tuner.recipe import Recipe, TrainConfig
from tuner.run import Run

UNET = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]


class LoraOptions(TrainConfig):
    """Options of `tuner lora`."""

    rank: int = common(16, "Rank of the update: its capacity, and the file's size.", ge=1, le=1024)
    alpha: float = common(0.0, "Scale of the update times its rank; 0 takes the rank.", ge=0)
    train_text_encoder: bool = Field(False, description="Train the text encoder's attention as well.")
    class_prompt: list[str] = Field([], description="What the base is not to forget (prior preservation); repeatable.")
    class_images: int = Field(1, ge=1, description="Pictures of each class prompt, drawn by the base before training.")


class Lora(Recipe):
    """Low-rank updates of the U-Net's attention, and of the text encoder's where asked for."""

    Config = LoraOptions

    def __init__(self, config: LoraOptions, model: LatentDiffusion) -> None:
        from peft import LoraConfig  # takes seconds to import: `--help` need not wait for it

        super().__init__(config, model)
        self.alpha = config.alpha or float(config.rank)
        parts = {"unet": UNET} | ({"text_encoder": TEXT} if config.train_text_encoder else {})
        self.trained = torch.nn.ModuleDict({name: getattr(model, name) for name in parts})
        with torch.random.fork_rng(devices=[]):  # peft draws A from the global generator
            torch.manual_seed(seed_of(config.seed, "lora"))
            for name, targets in parts.items():
                getattr(model, name).add_adapter(
                    LoraConfig(r=config.rank, lora_alpha=self.alpha, target_modules=targets, lora_dropout=0.0)
                )

    def data(self, run: Run) -> Source:
        """The folder's examples and, as often, pictures of the class prompts that the base itself draws."""
        source = self._encoded(pictures(self.config, self.model))
        if not self.config.class_prompt:
            return source
        prior = imagined(source, self.model, self.config.class_prompt, self.config.class_images)
        return source.with_prior(self._encoded(prior))

    def _encoded(self, source: Source) -> Source:
        """Latents always; prompts too, unless their encoder trains."""
        source = with_latents(source, self.model)
        return source if self.config.train_text_encoder else with_prompts(source, self.model)

    def forward(self, batch: Batch) -> Tensor:
        x = self.model.noised(batch)
        told = batch.conditioning or self.model.encode_prompts(batch.captions)
        return x.error(self.model.predict(x.noisy, x.t, told)) * self.model.snr_weight(x.t, self.config.snr_gamma)

    def artifact(self) -> LoraFile:
        return LoraFile.from_model(self.model, self.alpha, self.config.rank, metadata=self.metadata())
