"""Teach a base to draw after pictures with a T2I-Adapter: a small network beside the base that is asked only once.

T2I-Adapter (Mou et al. 2023, arXiv:2302.08453): a convolutional network turns the condition into features that are
added to the frozen U-Net's encoder, level by level (section 3.2). It sees neither noise nor timestep, so that drawing
computes it once. Early steps settle the layout, and so noisy timesteps train more often: t = (1 - u^3) T (section 3.3).
Its first convolution and its biases start at zero, which the paper does not ask for: at step 0 nothing has changed.
"""

from PIL import Image
from torch import Tensor

from tuner.config import common, option
from tuner.data.batch import Batch
from tuner.data.conditions import check_condition
from tuner.data.source import Source, conditioned
from tuner.errors import RequestError
from tuner.models.control import new_t2i_adapter
from tuner.models.control_folder import ControlFolder
from tuner.models.control_loading import load_control
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.recipe import Recipe, TrainConfig
from tuner.run import Run
from tuner.sampling.control import rows_of


class T2iAdapterOptions(TrainConfig):
    """Options of `tuner t2i-adapter`."""

    condition: str = common(
        "canny", "Drawn after: canny, soft-edge, gray, blur, colour-grid, or a folder with a picture for each.", "NAME"
    )
    prompt_dropout: float = common(0.0, "Share of the examples that train without a prompt.", ge=0, le=1)
    control: str = option("", "T2I-Adapter to start from; by default a new one.", "DIR")
    learning_rate: float = common(1e-5, "Peak learning rate.", gt=0)


class T2iAdapter(Recipe):
    """A feature extractor beside the frozen U-Net."""

    Config = T2iAdapterOptions
    adapts, suite = True, "control"

    def __init__(self, config: T2iAdapterOptions, model: LatentDiffusion) -> None:
        super().__init__(config, model)
        if config.control:
            network = load_control(config.control, model.unet, model.scale, of="T2IAdapter")
        else:
            network = new_t2i_adapter(model.unet, model.scale, config.seed)
        self.network = network.to(model.device).requires_grad_(True)

    @classmethod
    def check(cls, config: T2iAdapterOptions) -> None:
        super().check(config)
        check_condition(config.condition)
        if config.caption_dropout:
            raise RequestError("--caption-dropout is called --prompt-dropout here.")

    def data(self, run: Run) -> Source:
        return conditioned(self.config, self.model)

    def predict(self, noisy: Tensor, t: Tensor, batch: Batch) -> Tensor:
        assert batch.control is not None
        told = self.model.told(batch)
        added = self.model.residuals(self.network, batch.control, noisy, t, told)
        return self.model.predict(noisy, t, told, added)

    def forward(self, batch: Batch) -> Tensor:
        last = self.model.timesteps - 1
        t = ((1 - batch.draw.uniform("timestep") ** 3) * self.model.timesteps).long().clamp(max=last)
        x = self.model.noised(batch, self.config.noise_offset, t)
        return x.error(self.predict(x.noisy, x.t, batch)) * self.model.loss_weight(x.t, self.config)

    def pictures(self, prompts: list[str], count: int) -> list[list[Image.Image]]:
        seeds = range(self.config.seed, self.config.seed + count)
        return rows_of(self.model.pipeline("dpm++"), self.network, self.source, prompts, seeds)

    def artifact(self) -> ControlFolder:
        return ControlFolder(self.model, self.network, self.source, self.config.condition)
