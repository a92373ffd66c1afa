"""Teach a base your own pictures with its own weights: what comes out is a whole model of its own.

The base's own training goes on (latent diffusion, Rombach et al. 2022, arXiv:2112.10752, eq. 2), on all of the U-Net or
on layers of a kind: cross-attention moves the most of all when a base learns a few pictures (Kumari et al. 2023,
arXiv:2212.04488, section 3.1). With class prompts for what the base is not to forget it is DreamBooth (Ruiz et al.
2023, arXiv:2208.12242, eq. 2). The autoencoder never trains. The learning rate is a tenth of LoRA's: a step of Adam
moves every weight by about that much, and here all of them add up.
"""

import re
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from tuner.config import common
from tuner.data.batch import Batch
from tuner.data.options import PriorOptions
from tuner.data.source import Source, preserving
from tuner.errors import RequestError
from tuner.models.folder import PipelineFolder
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.models.layers import Layer, paths_of
from tuner.recipe import Recipe, TrainConfig
from tuner.run import Run


class FinetuneOptions(PriorOptions, TrainConfig):
    """Options of `tuner finetune`."""

    train: list[Literal["unet", Layer]] = common(
        ["unet"], "What of the U-Net trains: all of it, or layers of a kind; repeatable.", min_length=1
    )
    learning_rate: float = common(1e-5, "Peak learning rate.", gt=0)
    train_text_encoder: bool = Field(False, description="Train the text encoders as well.")
    text_learning_rate: float = Field(0.0, ge=0, description="The text encoders' learning rate; 0 is the U-Net's.")


class Finetune(Recipe):
    """The U-Net or a part of it, and the text encoders where asked for."""

    Config = FinetuneOptions

    @classmethod
    def check(cls, config: FinetuneOptions) -> None:
        super().check(config)
        if config.quantize != "none":
            raise RequestError(
                f"--quantize {config.quantize} holds weights that cannot train and makes no whole model; leave it out, "
                "or train a LoRA, which goes beside such a base: tuner lora."
            )
        if config.text_learning_rate and not config.train_text_encoder:
            raise RequestError("--text-learning-rate is for text encoders that train; add --train-text-encoder.")

    def __init__(self, config: FinetuneOptions, model: LatentDiffusion) -> None:
        super().__init__(config, model)
        self.trained = nn.ModuleDict({"unet": model.unet})
        if config.train_text_encoder:
            self.trained.update({name: getattr(model, name) for name in model.family.encoders})
        self.trained.requires_grad_(True)
        model.freeze_idle()
        if "unet" not in config.train:
            layers = paths_of(layer for layer in config.train if layer != "unet")
            for path, parameter in model.unet.named_parameters():
                parameter.requires_grad_(bool(re.fullmatch(rf"{layers}\.(weight|bias)", path)))

    def groups(self) -> list[dict[str, Any]]:
        """The U-Net's parameters, and the text encoders' at their own learning rate.

        Tables of embeddings stand apart: they are no matrices to Muon, and weight decay would draw at the words that no
        caption names.
        """
        text = {"lr": self.config.text_learning_rate} if self.config.text_learning_rate else {}
        unet, *encoders = ([p for p in part.parameters() if p.requires_grad] for part in self.trained.values())
        tables = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        groups: list[dict[str, Any]] = [{"params": unet}]
        for encoder in encoders:
            rest, rows = ([p for p in encoder if (id(p) in tables) is apart] for apart in (False, True))
            groups += [{"params": rest, **text}, {"params": rows, "weight_decay": 0.0, "matrices": False, **text}]
        return groups

    def data(self, run: Run) -> Source:
        return preserving(self.config, self.model, prompts=not self.config.train_text_encoder)

    def forward(self, batch: Batch) -> Tensor:
        x = self.model.noised(batch, self.config.noise_offset)
        error = x.error(self.predict(x.noisy, x.t, batch))
        return error * self.model.loss_weight(x.t, self.config)

    def artifact(self) -> PipelineFolder:
        return PipelineFolder(self.model, changed=True)
