"""LatentDiffusion: one base model. What differs between families of Stable Diffusion lives behind it.

Latent diffusion: Rombach et al. 2022 (arXiv:2112.10752). Noise schedule and targets: Ho et al. 2020
(arXiv:2006.11239), eq. 4 and 14; v-prediction: Salimans & Ho 2022 (arXiv:2202.00512), appendix D.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..config import Options, read_toml
from .conditioning import Conditioning
from .consistency import embedded
from .family import family_of
from .layers import innermost

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from ..data.batch import Batch
    from .control import ControlNetwork, Residuals


class LossOptions(Options):
    """How the loss of latent diffusion is drawn and weighed."""

    panel: ClassVar[str] = "Loss"

    snr_gamma: float = Field(0.0, ge=0, description="min-SNR weighting of the loss; 0 is off, 5 is usual.")
    v_like: float = Field(0.0, ge=0, description="Adds v-prediction's loss at this weight: high noise, layout.")
    noise_offset: float = Field(0.0, ge=0, le=1, description="Noise common to a channel: darker and lighter pictures.")


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

    def __getitem__(self, rows: Sequence[int]) -> Noised:
        """Some of the examples."""
        return Noised(*(getattr(self, field.name)[list(rows)] for field in fields(self)))

    def error(self, prediction: Tensor) -> Tensor:
        """The mean squared error of a prediction, (B,), in fp32."""
        return (prediction.float() - self.target).square().mean((1, 2, 3))


BUNDLED = {"emoji": Path(__file__).parents[1] / "bundled" / "base"}


def recommended(base: str, command: str) -> dict[str, Any]:
    """The defaults that a base brings along for a command: a table of `training.toml` beside its model_index.json."""
    file = Path(BUNDLED.get(base, base)) / "training.toml"
    return read_toml(file).get(command, {}) if file.is_file() else {}


class LatentDiffusion:
    """An autoencoder, one text encoder or two, and a U-Net that predicts noise in the autoencoder's latents.

    Attributes:
        unet, vae: as diffusers has them.
        text_encoder, tokenizer, text_encoder_2, tokenizer_2: as transformers has them; the second ones None where the
            family has none.
        family: which kind of Stable Diffusion it is.
        alphas_cumprod: the share of signal left at each timestep, (T,), float64.
        identity: where it came from, for the files that are trained on it.
        zero_empty: whether the conditioning of the empty prompt is all zeros (SDXL), not the encoders' own.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    text_encoder_2: Any = None
    tokenizer_2: Any = None

    def __init__(
        self, parts: Mapping[str, Any], scheduler_config: Mapping[str, Any], identity: str, zero_empty: bool = False
    ) -> None:
        """`parts` by their names in a diffusers pipeline: unet, vae, text_encoder, tokenizer, ..."""
        from diffusers import DDPMScheduler

        for name, part in parts.items():
            setattr(self, name, part)
        self.family = family_of(self)
        self.scheduler_config = dict(scheduler_config)
        self.identity, self.zero_empty = identity, zero_empty
        self._computes: torch.dtype | None = None
        self.alphas_cumprod = DDPMScheduler.from_config(self.scheduler_config).alphas_cumprod.double()
        for network in self.networks.values():
            network.requires_grad_(False).eval()

    @classmethod
    def load(cls, base: str, quantize: str = "none") -> LatentDiffusion:
        """Load a base: `emoji`, a diffusers folder, a single .safetensors checkpoint, or a Hub id.

        Args:
            quantize: how the U-Net is held: `none`, `int8` or `nf4`.

        Raises:
            RequestError: there is no such base, or it is not of a family that is known here.
        """
        from .loading import load

        return load(base, quantize)

    # -- parts ---------------------------------------------------------------------------------------------------------

    @property
    def networks(self) -> dict[str, torch.nn.Module]:
        """All networks, by name."""
        return {name: getattr(self, name) for name in ("unet", "vae", *self.family.encoders)}

    @property
    def text_encoders(self) -> list[Any]:
        return [getattr(self, name) for name in self.family.encoders]

    @property
    def tokenizers(self) -> list[Any]:
        return [getattr(self, name) for name in self.family.tokenizers]

    def idle(self, network: str) -> str | None:
        """A pattern of the modules of a network that no picture depends on; None where there are none.

        SDXL takes the first encoder's states before its last layer, which is then left out of everything.
        """
        first, last = self.text_encoder, self.text_encoder.config.num_hidden_layers - 1
        unused = len(self.text_encoders) > 1 and getattr(self, network) is first
        return rf"(.*\.)?(encoder\.layers\.{last}|final_layer_norm)\..*" if unused else None

    def freeze_idle(self) -> None:
        """Take out of training what no picture depends on."""
        for name in self.family.encoders:
            pattern = self.idle(name)
            for path, parameter in getattr(self, name).named_parameters():
                if pattern and re.fullmatch(pattern, path):
                    parameter.requires_grad_(False)

    @property
    def architecture(self) -> str:
        """The family's name in the ModelSpec."""
        return self.family.architectures[self.prediction_type]

    @property
    def kohya_version(self) -> str:
        """The family's name in kohya's metadata."""
        return self.family.versions[self.prediction_type]

    def hold_frozen(self, dtype: torch.dtype) -> None:
        """Hold what of the U-Net does not train in the precision that it computes in, from now on.

        What trains stays in fp32, and so do the encoders: they work once, and SDXL's autoencoder fails in fp16. On a
        CPU weights that updates are folded into stay, too.
        """
        from .folding import folding

        frozen = [p for p in self.unet.parameters() if p.is_floating_point() and not p.requires_grad]
        self._computes = dtype if frozen else None
        for parameter in {*frozen} - folding(self.unet):
            parameter.data = parameter.data.to(dtype)

    def forget(self) -> None:
        """Let go of all weights: nothing can be computed any more."""
        for network in self.networks.values():
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.data = torch.empty(0, dtype=tensor.dtype)

    def checkpoint_gradients(self) -> None:
        """Compute activations again in the backward pass, instead of keeping them: the U-Net's and the encoders'."""
        self.unet.enable_gradient_checkpointing()
        for encoder in self.text_encoders:
            encoder.gradient_checkpointing_enable()

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
        """Prompts -> conditioning of len(prompts) rows, without sizes. Gradients flow where a text encoder trains.

        SDXL joins the states before the last layer of both encoders, and takes the second one's pooled text.
        """
        outputs = [
            encoder(self._tokens(tokenizer, prompts).to(encoder.device), output_hidden_states=len(self.tokenizers) > 1)
            for encoder, tokenizer in zip(self.text_encoders, self.tokenizers, strict=True)
        ]
        if len(outputs) == 1:
            told = Conditioning(outputs[0][0])
        else:
            told = Conditioning(torch.cat([out.hidden_states[-2] for out in outputs], -1), outputs[-1][0])
        if not self.zero_empty or all(prompts):
            return told
        keep = torch.tensor([bool(prompt) for prompt in prompts], device=told.hidden.device)
        return told.where(keep, told.zeros())

    @staticmethod
    def _tokens(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
        return tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids  # fmt: skip

    def told(self, batch: Batch) -> Conditioning:
        """What the U-Net is told of a batch: its captions, encoded now where they were not before, and its sizes."""
        told = batch.conditioning or self.encode_prompts(batch.captions)
        if told.pooled is None or batch.sizes is None:
            return told
        return replace(told, time_ids=batch.sizes.to(told.pooled))

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

    def separated(self, noisy: Tensor, prediction: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The latents and the noise that a prediction takes noisy latents for: `target` the other way round."""
        signal, spread = self._rates(t, noisy)
        if self.prediction_type == "v_prediction":
            return signal * noisy - spread * prediction, spread * noisy + signal * prediction
        if self.prediction_type == "sample":
            return prediction, (noisy - signal * prediction) / spread
        return (noisy - spread * prediction) / signal, prediction

    def noised(self, batch: Batch, offset: float = 0.0, t: Tensor | None = None) -> Noised:
        """A batch's latents, drawn from their posterior, at timesteps t (B,), by default drawn uniformly.

        Args:
            offset: deviation of the noise that all pixels of a channel share (Guttenberg 2023, "Diffusion with offset
                noise"); 0 is the plain process.
        """
        assert batch.moments is not None, "this recipe wants encoded pictures"
        shape = batch.moments.shape[1] // 2, *batch.moments.shape[2:]
        latents = self.sample_latents(batch.moments, batch.draw.normal("posterior", *shape))
        noise = batch.draw.normal("noise", *shape)
        t = batch.draw.integers("timestep", self.timesteps) if t is None else t
        if offset:
            noise = noise + offset * batch.draw.normal("noise offset", shape[0], 1, 1)
        return Noised(latents, noise, t, self.add_noise(latents, noise, t), self.target(latents, noise, t))

    def predict(
        self,
        noisy: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        residuals: Residuals | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """The U-Net's prediction, (B, C, h, w). Where sizes are needed and not told, the picture is whole.

        Args:
            residuals: what control networks add to the U-Net's own features.
            guidance: its scales, (B,), for a U-Net that is told them (`time_cond_proj_dim`), and for no other.
        """
        told: dict[str, Any] = {"encoder_hidden_states": conditioning.hidden}
        told["added_cond_kwargs"] = self._added(noisy, conditioning)
        if residuals is not None:
            told |= residuals.to(self.unet.dtype).arguments()
        if guidance is not None and self.unet.config.time_cond_proj_dim is not None:
            told["timestep_cond"] = embedded(guidance, self.unet.config.time_cond_proj_dim)
        with _attention(noisy, self.unet.is_gradient_checkpointing), self._precision(noisy):
            return self.unet(noisy, t, **told).sample

    def _precision(self, noisy: Tensor) -> AbstractContextManager[object]:
        """What is held in half precision computes in it, in a training loop and outside."""
        return nullcontext() if self._computes is None else torch.autocast(noisy.device.type, self._computes)

    def residuals(
        self, network: ControlNetwork, control: Tensor, noisy: Tensor, t: Tensor, conditioning: Conditioning
    ) -> Residuals:
        """What a control network adds to the U-Net's features; `control` is its picture, (B, 3, H, W) in [0, 1]."""
        from .control import residuals

        added = self._added(noisy, conditioning)
        with _attention(noisy, getattr(network, "is_gradient_checkpointing", False)):
            return residuals(network, control, noisy, t, conditioning.hidden, added)

    def _added(self, noisy: Tensor, conditioning: Conditioning) -> dict[str, Tensor] | None:
        """The pooled text and the sizes, for the families that are told them."""
        if conditioning.pooled is None:
            return None
        ids = self._whole(noisy) if conditioning.time_ids is None else conditioning.time_ids
        return {"text_embeds": conditioning.pooled, "time_ids": ids}

    def _whole(self, latents: Tensor) -> Tensor:
        """Original size, crop and target size of uncropped pictures, (B, 6): Podell et al. 2023, section 2.2."""
        height, width = (side * self.scale for side in latents.shape[-2:])
        return latents.new_tensor([height, width, 0, 0, height, width]).expand(len(latents), -1)

    def loss_weight(self, t: Tensor, options: LossOptions) -> Tensor:
        """Weights of the loss at timesteps t (B,), (B,): 1 where the options ask for nothing.

        `snr_gamma`: min-SNR, Hang et al. 2023 (arXiv:2303.09556), eq. 6. `v_like` adds so many times the loss that
        predicting v would have (Salimans & Ho 2022, arXiv:2202.00512, appendix D; "v_pred_like_loss" in sd-scripts):
        of noise it counts errors at high noise, where a picture's layout is decided, many times more.
        """
        abar = self.alphas_cumprod.to(t.device)[t]
        snr = abar / (1 - abar)
        weight = torch.ones_like(abar)
        if options.snr_gamma:
            divisors = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}
            weight = snr.clamp(max=options.snr_gamma) / divisors[self.prediction_type]
        if options.v_like:
            errors = {"epsilon": 1 / abar, "v_prediction": torch.ones_like(snr), "sample": snr + 1}
            weight = weight + options.v_like * errors[self.prediction_type]
        return weight.float()

    def _rates(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
        return abar.sqrt().to(like), (1 - abar).sqrt().to(like)

    # -- sampling and saving -------------------------------------------------------------------------------------------

    def pipeline(self, sampler: str = "ddim") -> StableDiffusionPipeline:
        """A diffusers pipeline over these very parts (nothing is copied). `sampler` as in `samplers.SAMPLERS`."""
        import diffusers

        from .samplers import scheduler

        parts = {**self.networks, **dict(zip(self.family.tokenizers, self.tokenizers, strict=True))}
        plain = len(self.text_encoders) == 1
        also = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False} if plain else {
            "force_zeros_for_empty_prompt": self.zero_empty, "add_watermarker": False
        }  # fmt: skip
        kind = getattr(diffusers, self.family.pipeline)
        pipe = kind(**parts, scheduler=scheduler(sampler, self.scheduler_config), **also)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def to(self, device: torch.device | str) -> LatentDiffusion:
        """All networks on `device`, their kernels as `innermost` orders them."""
        for network in self.networks.values():
            network.to(device)
            innermost(network)
        return self


def _attention(latents: Tensor, checkpointed: bool) -> AbstractContextManager[None]:
    """The attention kernels for latents of this size; where the backward pass computes anew, those it will find then.

    On a CPU the backward pass of torch's fused attention is slow for short sequences: on the bundled base's U-Net it
    took a third of a step, and with plain matrix products the step is 1.5 times faster. Long sequences keep the fused
    one for its memory.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    short = latents.device.type == "cpu" and latents.shape[-1] * latents.shape[-2] <= 1024
    return sdpa_kernel(SDPBackend.MATH) if short and torch.is_grad_enabled() and not checkpointed else nullcontext()
