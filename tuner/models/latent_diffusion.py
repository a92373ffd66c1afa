"""LatentDiffusion: one base model. What differs between families of Stable Diffusion lives behind it.

Latent diffusion: Rombach et al. 2022 (arXiv:2112.10752). Noise schedule and targets: Ho et al. 2020
(arXiv:2006.11239), eq. 4 and 14; v-prediction: Salimans & Ho 2022 (arXiv:2202.00512), appendix D.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config import read_toml
from ..errors import RequestError
from .conditioning import Conditioning

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from ..data.batch import Batch


@dataclass(frozen=True)
class Noised:
    """Examples somewhere along the forward process: `noisy` at timesteps `t` (B,), and what is to be predicted there.

    All but `t` are (B, C, h, w).
    """

    latents: Tensor
    noise: Tensor
    t: Tensor
    noisy: Tensor
    target: Tensor

    def error(self, prediction: Tensor) -> Tensor:
        """The mean squared error of a prediction, (B,), in fp32."""
        return (prediction.float() - self.target).square().mean((1, 2, 3))


BUNDLED = {"emoji": Path(__file__).parents[1] / "bundled" / "base"}


def recommended(base: str, command: str) -> dict[str, Any]:
    """The defaults that a base brings along for a command: a table of `training.toml` beside its model_index.json."""
    file = Path(BUNDLED.get(base, base)) / "training.toml"
    return read_toml(file).get(command, {}) if file.is_file() else {}


class LatentDiffusion:
    """An autoencoder, a text encoder and a U-Net that predicts noise in the autoencoder's latents.

    Attributes:
        unet, vae, text_encoder, tokenizer: the parts, as diffusers and transformers have them.
        alphas_cumprod: the share of signal left at each timestep, (T,), float64.
        identity: where it came from, for the files that are trained on it.
    """

    architecture = "stable-diffusion-v1"  # the family's name in ModelSpec
    kohya_version = "sd_v1"  # ... and in kohya's metadata

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler_config: dict[str, Any],
        identity: str,
    ) -> None:
        from diffusers import DDPMScheduler

        self.unet, self.vae, self.text_encoder, self.tokenizer = unet, vae, text_encoder, tokenizer
        self.scheduler_config = dict(scheduler_config)
        self.identity = identity
        self.alphas_cumprod = DDPMScheduler.from_config(scheduler_config).alphas_cumprod.double()
        for part in (unet, vae, text_encoder):
            part.requires_grad_(False).eval()

    @classmethod
    def load(cls, base: str) -> LatentDiffusion:
        """Load a base: `emoji`, a diffusers folder, or a Hub id.

        Raises:
            RequestError: there is no such base, or it is not of a family that is known here.
        """
        import diffusers

        diffusers.utils.logging.disable_progress_bar()
        source = str(BUNDLED.get(base, base))
        if not Path(source).exists() and (base in BUNDLED or source.count("/") != 1 or source.startswith((".", "/"))):
            raise RequestError(f"--base {base}: there is no such folder; name a diffusers folder, a Hub id or `emoji`.")
        if Path(source).exists() and not (Path(source) / "model_index.json").is_file():
            raise RequestError(f"--base {base} is not a diffusers folder: it has no model_index.json.")
        try:
            pipe = diffusers.StableDiffusionPipeline.from_pretrained(
                source, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
                use_safetensors=True, dtype=torch.float32,
            )  # fmt: skip
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise RequestError(
                f"--base {base} could not be loaded as a Stable Diffusion 1.x model: {reason}"
            ) from error
        return cls(pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer, dict(pipe.scheduler.config), identity=base)

    # -- sizes ---------------------------------------------------------------------------------------------------------

    @property
    def scale(self) -> int:
        """Pixels to a latent's side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def resolution(self) -> int:
        """The side, in pixels, of the pictures that the base was trained on."""
        return int(self.unet.config.sample_size) * self.scale

    @property
    def unit(self) -> int:
        """What a picture's sides must be multiples of: the autoencoder's and the U-Net's halvings together."""
        return self.scale * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def timesteps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def prediction_type(self) -> str:
        return self.scheduler_config.get("prediction_type", "epsilon")

    @property
    def device(self) -> torch.device:
        return self.unet.device

    # -- encoding ------------------------------------------------------------------------------------------------------

    def encode_images(self, pixels: Tensor) -> Tensor:
        """The autoencoder's posterior for pictures: (B, 3, H, W) in [-1, 1] -> moments (B, 2C, H/scale, W/scale)."""
        return self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.parameters

    def sample_latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """A draw from the posterior in the U-Net's scale: moments (B, 2C, h, w), noise (B, C, h, w) -> (B, C, h, w)."""
        mean, log_variance = moments.chunk(2, 1)
        sample = mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise
        return sample * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pixels (B, 3, H, W), about [-1, 1]."""
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts -> conditioning of len(prompts) rows. Gradients flow where the text encoder trains."""
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )  # fmt: skip
        return Conditioning(self.text_encoder(tokens.input_ids.to(self.text_encoder.device))[0])

    # -- diffusion -----------------------------------------------------------------------------------------------------

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The forward process: sqrt(abar_t) latents + sqrt(1 - abar_t) noise, t (B,) in [0, T)."""
        signal, spread = self._rates(t, latents)
        return signal * latents + spread * noise

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the U-Net is to predict: the noise, v = sqrt(abar) noise - sqrt(1 - abar) latents, or the latents."""
        signal, spread = self._rates(t, latents)
        targets = {"epsilon": noise, "v_prediction": signal * noise - spread * latents, "sample": latents}
        return targets[self.prediction_type]

    def noised(self, batch: Batch) -> Noised:
        """A batch's latents, drawn from their posterior, at timesteps drawn uniformly."""
        assert batch.moments is not None, "this recipe wants encoded pictures"
        shape = batch.moments.shape[1] // 2, *batch.moments.shape[2:]
        latents = self.sample_latents(batch.moments, batch.draw.normal("posterior", *shape))
        noise, t = batch.draw.normal("noise", *shape), batch.draw.integers("timestep", self.timesteps)
        return Noised(latents, noise, t, self.add_noise(latents, noise, t), self.target(latents, noise, t))

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The U-Net's prediction, (B, C, h, w)."""
        with _attention(noisy):
            return self.unet(noisy, t, encoder_hidden_states=conditioning.hidden).sample

    def snr_weight(self, t: Tensor, gamma: float) -> Tensor:
        """min-SNR weights of the loss, (B,): Hang et al. 2023 (arXiv:2303.09556), eq. 6; 1 for gamma 0."""
        if not gamma:
            return torch.ones(len(t), device=t.device)
        abar = self.alphas_cumprod.to(t.device)[t]
        snr = abar / (1 - abar)
        divisors = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}
        return (snr.clamp(max=gamma) / divisors[self.prediction_type]).float()

    def _rates(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
        return abar.sqrt().to(like), (1 - abar).sqrt().to(like)

    # -- sampling and saving -------------------------------------------------------------------------------------------

    def pipeline(self, sampler: str = "ddim") -> StableDiffusionPipeline:
        """A diffusers pipeline over these very parts (nothing is copied). `sampler` as in `samplers.SAMPLERS`."""
        from diffusers import StableDiffusionPipeline

        from .samplers import scheduler

        pipe = StableDiffusionPipeline(
            vae=self.vae, text_encoder=self.text_encoder, tokenizer=self.tokenizer, unet=self.unet,
            scheduler=scheduler(sampler, self.scheduler_config), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def to(self, device: torch.device | str) -> LatentDiffusion:
        for part in (self.unet, self.vae, self.text_encoder):
            part.to(device)
        return self


def _attention(latents: Tensor) -> AbstractContextManager[None]:
    """The attention kernels for latents of this size.

    On a CPU the backward pass of torch's fused attention is slow for short sequences: on the bundled base's U-Net it
    took a third of a step, and with plain matrix products the step is 1.5 times faster. Long sequences keep the fused
    one for its memory.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    plain = latents.device.type == "cpu" and torch.is_grad_enabled() and latents.shape[-1] * latents.shape[-2] <= 1024
    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()
