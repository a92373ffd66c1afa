"""Teach a base to draw after pictures with a ControlNet: edges, shapes or colours say where, the prompt says what.

ControlNet (Zhang et al. 2023, arXiv:2302.05543): a copy of the U-Net's encoder and middle sees the noisy latents and
the condition, and is joined to the frozen U-Net's decoder by convolutions that start at zero (section 3.1), so that at
step 0 nothing has changed. Half of the prompts are left out while it learns, so that it reads the condition itself
(section 3.3). The loss is the base's own (eq. 5).
"""

from PIL import Image
from torch import Tensor

from tuner.config import common, option
from tuner.data.batch import Batch
from tuner.data.conditions import check_condition
from tuner.data.source import Source, conditioned
from tuner.errors import RequestError
from tuner.models.control import new_controlnet
from tuner.models.control_folder import ControlFolder
from tuner.models.control_loading import load_control
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.recipe import Recipe, TrainConfig
from tuner.run import Run
from tuner.sampling.control import rows_of


class ControlnetOptions(TrainConfig):
    """Options of `tuner controlnet`."""

    condition: str = common(
        "canny", "Drawn after: canny, soft-edge, gray, blur, colour-grid, or a folder with a picture for each.", "NAME"
    )
    prompt_dropout: float = common(0.5, "Share of the examples that train without a prompt.", ge=0, le=1)
    control: str = option("", "ControlNet to start from; by default a copy of the base's encoder.", "DIR")
    learning_rate: float = common(1e-5, "Peak learning rate.", gt=0)


class Controlnet(Recipe):
    """A trainable copy of the encoder beside the frozen U-Net."""

    Config = ControlnetOptions
    adapts, suite = True, "control"

    def __init__(self, config: ControlnetOptions, model: LatentDiffusion) -> None:
        super().__init__(config, model)
        if config.control:
            network = load_control(config.control, model.unet, model.scale, of="ControlNetModel")
        else:  # packed weights cannot be copied
            whole = model if config.quantize == "none" else LatentDiffusion.load(config.base)
            network = new_controlnet(whole.unet, model.scale, config.seed)
        if config.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        self.network = network.to(model.device).requires_grad_(True)

    @classmethod
    def check(cls, config: ControlnetOptions) -> None:
        super().check(config)
        check_condition(config.condition)
        if config.caption_dropout:
            raise RequestError("--caption-dropout is called --prompt-dropout here.")

    def data(self, run: Run) -> Source:
        return conditioned(self.config, self.model)

    def predict(self, noisy: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """The U-Net's prediction. Its encoder and middle depend on nothing that trains: autograd keeps none of them."""
        assert batch.control is not None
        told = self.model.told(batch)
        added = self.model.residuals(self.network, batch.control, noisy, t, told)
        return self.model.predict(noisy, t, told, added)

    def forward(self, batch: Batch) -> Tensor:
        x = self.model.noised(batch, self.config.noise_offset)
        return x.error(self.predict(x.noisy, x.t, batch)) * self.model.loss_weight(x.t, self.config)

    def pictures(self, prompts: list[str], count: int) -> list[list[Image.Image]]:
        seeds = range(self.config.seed, self.config.seed + count)
        return rows_of(self.model.pipeline("dpm++"), self.network, self.source, prompts, seeds)

    def artifact(self) -> ControlFolder:
        return ControlFolder(self.model, self.network, self.source, self.config.condition)
