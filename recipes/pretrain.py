"""Train a latent diffusion model from nothing, or go on training one: first the autoencoder, then the rest.

Latent diffusion in the classical sense (Rombach et al. 2022, arXiv:2112.10752, sections 3.1 to 3.3). The first stage
is an autoencoder with a small Kullback-Leibler term, where asked for also with a perceptual distance and a critic of
patches; its latents are rescaled to unit deviation. In the second the U-Net and the text encoder learn together to
predict the noise of latents that were encoded once (Ho et al. 2020, arXiv:2006.11239, eq. 14), with captions left out
now and then, for guidance. The decoder alone can be trained further at any time: latents keep what they mean.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from tuner.config import common, option
from tuner.data.batch import Batch
from tuner.data.source import Source, pictures, with_latents, with_pixels
from tuner.models.critics import PatchCritic, Perceptual
from tuner.models.folder import PipelineFolder
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.randomness import seed_of
from tuner.recipe import Recipe, TrainConfig
from tuner.run import Run

KL_WEIGHT = 1e-6


class PretrainOptions(TrainConfig):
    """Options of `tuner pretrain`."""

    base: str = common("new", "`new` for random weights, or the model to go on with.")
    stage: Literal["autoencoder", "decoder", "diffusion"] = common("diffusion", "What is trained.")
    crop: int = Field(0, ge=0, description="Autoencoder: train on crops of this side; 0 takes whole pictures.")
    perceptual: str = option("", "Autoencoder: a ResNet or ConvNeXt in whose maps pictures are compared, too.", "NAME")
    perceptual_weight: float = Field(0.2, gt=0, description="Weight of that distance.")
    adversarial: float = Field(0.0, ge=0, description="Autoencoder: weight of a critic of patches; 0 is without.")
    words: str = Field("", description="File of words that a new tokenizer holds as one token each.")
    latent_channels: int = Field(0, ge=0, description="Channels of a latent; fewer grow to so many; 0 leaves them.")
    steps: int = common(20_000, "Optimizer steps.", ge=0)
    batch_size: int = common(32, "Pictures a process sees at once.", ge=1)
    learning_rate: float = common(5e-4, "Peak learning rate.", gt=0)
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    caption_dropout: float = Field(0.1, ge=0, le=1, description="Share of the examples that train without a caption.")
    ema: float = Field(0.999, ge=0, lt=1, description="Decay of an average of the weights, which is then exported.")


class Pretrain(Recipe):
    """The stage that the configuration names."""

    Config = PretrainOptions

    def __init__(self, config: PretrainOptions, model: LatentDiffusion) -> None:
        super().__init__(config, model)
        parts = {
            "autoencoder": [model.vae],
            "decoder": [model.vae.decoder, *filter(None, [model.vae.post_quant_conv])],
            "diffusion": [model.unet, *model.text_encoders],
        }
        self.trained = torch.nn.ModuleList(parts[config.stage]).requires_grad_(True)
        pixels = config.stage != "diffusion"
        self.critic = PatchCritic(seed_of(config.seed, "critic")) if pixels and config.adversarial else None
        self.perceptual = Perceptual.load(config.perceptual) if pixels and config.perceptual else None
        model.freeze_idle()

    @classmethod
    def base(cls, config: PretrainOptions) -> LatentDiffusion:
        from tuner.models.architecture import Sizes, create
        from tuner.models.growing import reword, widen

        words = Path(config.words).read_text(encoding="utf-8").split() if config.words else []
        if config.base == "new":
            sizes = Sizes(resolution=config.resolution or 64, latent_channels=config.latent_channels or 4)
            return create(sizes, words, config.seed)
        model = LatentDiffusion.load(config.base)
        if words:
            reword(model, words, config.seed)
        if config.latent_channels > model.vae.config.latent_channels:
            widen(model, config.latent_channels, config.seed)
        return model

    def groups(self) -> list[dict[str, Any]]:
        """All that trains; tables of embeddings apart, which are no matrices to Muon."""
        tables = {id(m.weight) for m in self.modules() if isinstance(m, torch.nn.Embedding) and m.weight.requires_grad}
        trained = [p for p in self.parameters() if p.requires_grad]
        rest, rows = ([p for p in trained if (id(p) in tables) is apart] for apart in (False, True))
        return [{"params": rest}, *([{"params": rows, "matrices": False}] if rows else [])]

    def data(self, run: Run) -> Source:
        source = pictures(self.config, self.model)
        if self.config.stage != "diffusion":
            return with_pixels(source)
        source = with_latents(source, self.model)
        assert source.moments is not None
        means = torch.cat([moments.chunk(2)[0].flatten() for moments in source.moments])
        self.model.vae.register_to_config(scaling_factor=1 / means.std().item())
        return source

    def forward(self, batch: Batch) -> Tensor:
        return self._denoising(batch) if self.config.stage == "diffusion" else self._reconstruction(batch)

    def _reconstruction(self, batch: Batch) -> Tensor:
        pixels = self._cropped(batch)
        posterior = self.model.vae.encode(pixels).latent_dist
        noise = batch.draw.normal("posterior", *posterior.mean.shape[1:])
        made = self.model.vae.decode(posterior.mean + posterior.std * noise).sample.float()
        error = made - pixels
        loss = (error.abs() + error.square()).mean((1, 2, 3)) + KL_WEIGHT * posterior.kl().float()
        if self.perceptual is not None:
            loss = loss + self.config.perceptual_weight * self.perceptual(made, pixels)
        if self.critic is not None:
            loss = loss + self.critic(pixels, made, self.config.adversarial)
        return loss

    def _cropped(self, batch: Batch) -> Tensor:
        assert batch.pixels is not None
        (height, width), crop = batch.pixels.shape[-2:], self.config.crop
        if not crop:
            return batch.pixels.contiguous(memory_format=torch.channels_last)
        down, across = (max(1, side - crop + 1) for side in (height, width))
        corners = batch.draw.here.integers("crop", max(down, across), 2).tolist()
        places = [(y % down, x % across) for y, x in corners]
        windows = [p[:, y : y + crop, x : x + crop] for p, (y, x) in zip(batch.pixels, places, strict=True)]
        return torch.stack(windows).contiguous(memory_format=torch.channels_last)

    def _denoising(self, batch: Batch) -> Tensor:
        x = self.model.noised(batch)
        told = self.model.encode_prompts(batch.captions)
        return x.error(self.model.predict(x.noisy, x.t, told)) * self.model.loss_weight(x.t, self.config)

    def artifact(self) -> PipelineFolder:
        return PipelineFolder(self.model)

    def pictures(self, prompts: list[str], count: int) -> list[list[Image.Image]]:
        """The autoencoder shows pictures and what it makes of them; the diffusion stage draws its prompts."""
        if self.config.stage == "diffusion":
            return super().pictures(prompts, count)
        assert self.source.pixels is not None
        rows = []
        for number in range(min(len(prompts), len(self.source))):
            pixels = self.source.pixels[number].float() / 127.5 - 1
            with torch.no_grad():
                again = self.model.vae(pixels[None]).sample[0].clamp(-1, 1)
            rows.append([_picture(pixels), _picture(again)])
        return rows


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
