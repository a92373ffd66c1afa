"""Teach a base your own pictures with a LoRA: a small low-rank file beside the base.

LoRA (Hu et al. 2021, arXiv:2106.09685): each chosen weight W becomes W + (alpha / rank) B A, where only A and B train
and B starts at zero, so that at step 0 nothing has changed. Its kin differ in the update: rsLoRA scales by
alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732); DoRA trains the length of W's rows apart (Liu et al. 2024,
arXiv:2402.09353); LoHa multiplies two updates elementwise (Hyeon-Woo et al. 2021, arXiv:2108.06098); LoKr takes a
Kronecker product (Yeh et al. 2023, arXiv:2309.14859). The loss is the base's own (latent diffusion, Rombach et al.
2022, arXiv:2112.10752, eq. 2), with prior preservation where class prompts are given (Ruiz et al. 2023,
arXiv:2208.12242). It may start from a learned token, and go on training it (pivotal tuning: Roich et al. 2021,
arXiv:2106.05744, for diffusion models in github.com/cloneofsimo/lora).
"""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tuner.adapters.artifact import Export
from tuner.adapters.embeddings import Embedding, is_embedding
from tuner.adapters.lora import Lora as LoraFile
from tuner.adapters.together import Together
from tuner.config import common, option
from tuner.data.batch import Batch
from tuner.data.options import PriorOptions
from tuner.data.source import Source, preserving
from tuner.errors import RequestError
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.models.layers import Layer, paths_of
from tuner.models.words import Word, teach
from tuner.randomness import seed_of
from tuner.recipe import Recipe, TrainConfig
from tuner.run import Run


class LoraOptions(PriorOptions, TrainConfig):
    """Options of `tuner lora`."""

    rank: int = common(16, "Rank of the update: its capacity, and the file's size.", ge=1, le=1024)
    alpha: float = common(0.0, "Scale of the update times its rank; 0 takes the rank.", ge=0)
    variant: Literal["lora", "dora", "rslora", "loha", "lokr"] = common("lora", "The form of the update.")
    targets: list[Layer] = Field(["attention"], description="The layers that are updated; repeatable.", min_length=1)
    train_text_encoder: bool = Field(False, description="Update the text encoders as well.")
    text_learning_rate: float = Field(0.0, ge=0, description="The text encoders' learning rate; 0 is the U-Net's.")
    embedding: str = option("", "A token of `tuner textual-inversion` to start from, for captions to name.", "FILE")
    embedding_learning_rate: float = Field(0.0, ge=0, description="Train the token's vectors too, at this rate.")


class Lora(Recipe):
    """Low-rank updates of the U-Net, and of the text encoders where asked for."""

    Config = LoraOptions
    adapts, suite = True, "subject"

    @classmethod
    def check(cls, config: LoraOptions) -> None:
        super().check(config)
        if config.embedding_learning_rate and not config.embedding:
            raise RequestError("--embedding-learning-rate needs a token to train; name its file by --embedding.")
        if config.embedding and not is_embedding(Path(config.embedding)):
            raise RequestError(f"--embedding {config.embedding} is no token's file; name what textual-inversion left.")

    def __init__(self, config: LoraOptions, model: LatentDiffusion) -> None:
        from peft import inject_adapter_in_model  # takes seconds to import: `--help` need not wait for it

        super().__init__(config, model)
        self.word = Embedding.load(Path(config.embedding)).word if config.embedding else None
        self.rows = torch.nn.ParameterList(teach(model, self.word) if self.word else [])
        encoders = model.family.encoders if config.train_text_encoder else ()
        self.trained = torch.nn.ModuleDict({name: getattr(model, name) for name in ("unet", *encoders)})
        with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
            torch.manual_seed(seed_of(config.seed, "lora"))
            for name, network in self.trained.items():
                layers = paths_of(config.targets, text_encoder=name != "unet")
                if layers:
                    settings = _settings(config, target_modules=layers, exclude_modules=model.idle(name))
                    inject_adapter_in_model(settings, network)
        self.rows.requires_grad_(config.embedding_learning_rate > 0)  # after peft, which freezes all that it finds

    def groups(self) -> list[dict[str, Any]]:
        """The U-Net's parameters; the text encoders' and the token's at their own learning rate."""
        rows = [p for p in self.rows if p.requires_grad]
        own = {id(p) for p in rows}
        parts = (
            [p for p in part.parameters() if p.requires_grad and id(p) not in own] for part in self.trained.values()
        )
        unet, *encoders = parts
        text = {"lr": self.config.text_learning_rate} if self.config.text_learning_rate else {}
        word = [{"params": rows, "weight_decay": 0.0, "lr": self.config.embedding_learning_rate}] if rows else []
        return [{"params": unet}, *({"params": part, **text} for part in encoders if part), *word]

    def data(self, run: Run) -> Source:
        """Prompts are encoded once, unless their encoders or a token's vectors train."""
        trains = self.config.train_text_encoder or any(p.requires_grad for p in self.rows)
        return preserving(self.config, self.model, prompts=not trains)

    def forward(self, batch: Batch) -> Tensor:
        x = self.model.noised(batch, self.config.noise_offset)
        error = x.error(self.model.predict(x.noisy, x.t, self.model.told(batch)))
        return error * self.model.loss_weight(x.t, self.config)

    def artifact(self) -> Export:
        lora = LoraFile.from_model(self.model, metadata=self.metadata())
        if self.word is None:
            return lora
        word = Word(self.word.token, tuple(self.rows))
        return Together({"": lora, "-token": Embedding.of(self.model, word, self.metadata())})


def _settings(config: LoraOptions, **layers: str | None) -> Any:
    """peft's settings; `layers` are its patterns of the paths that are updated, and of those that are not."""
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    if config.quantize != "none" and config.variant in ("loha", "lokr"):
        raise RequestError(f"--variant {config.variant} does not train on a quantised base; leave --quantize out.")
    alpha = config.alpha or float(config.rank)
    if config.variant in ("loha", "lokr"):
        return {"loha": LoHaConfig, "lokr": LoKrConfig}[config.variant](r=config.rank, alpha=alpha, **layers)
    kind = {"use_dora": config.variant == "dora", "use_rslora": config.variant == "rslora"}
    return LoraConfig(r=config.rank, lora_alpha=alpha, **kind, **layers)
