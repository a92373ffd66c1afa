"""Take a concept out of a base: prompts that name the target draw its anchor, and everything else stays as it was.

`model` and `noise` are concept ablation (Kumari et al. 2023, arXiv:2303.13516, eq. 4 and 5): on pictures of the anchor
that the base draws itself, the target's prompt learns to predict what the anchor's does, or the noise, with the
ordinary loss on the anchor beside it. `esd` leads away from what the base knows of the target, on latents that the
model makes of it (Gandikota et al. 2023, arXiv:2303.07345, eq. 7); `uce` solves for the weights that read the text
(Gandikota et al. 2024, arXiv:2308.14761, eq. 7). `default` begins with that solution and trains on: the base itself,
its shifts taken off, teaches each prompt of the target what it predicts for the anchor's, and every other prompt what
it predicted before; other prompts are those named by `--retain`, and words of the base's own vocabulary.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tuner.adapters.artifact import Export
from tuner.adapters.embeddings import Embedding
from tuner.adapters.lora import Lora
from tuner.adapters.together import Together
from tuner.config import changed, common, option
from tuner.data.batch import Batch
from tuner.data.lessons import Lessons, check_known
from tuner.data.options import without_folder
from tuner.data.pairs import ERASES, concepts, noted, pairs_of
from tuner.data.source import Source
from tuner.errors import RequestError
from tuner.models.closed_form import solve, with_room
from tuner.models.latent_diffusion import LatentDiffusion, Noised
from tuner.models.layers import paths_of
from tuner.models.partway import partway
from tuner.models.shifts import shift, unshifted
from tuner.models.words import Word, own_words, teach
from tuner.recipe import Recipe, TrainConfig
from tuner.run import Run

READERS = r".*attn2\.to_[kv]"  # the weights that read the text
HOLD = 5.0  # how much more in the closed form what stays weighs than what is to change
TRAINED = {
    "cross-attention": READERS,
    "embedding": "",
    "unet": paths_of(["attention", "feed-forward", "projections", "convolutions"]),
}


class AblateOptions(TrainConfig):
    """Options of `tuner ablate`."""

    target: list[str] = common([], "What is to be gone, in the words of prompts; repeatable.", "TEXT")
    anchor: list[str] = common([], "What is drawn in its place: one for all targets, or one each.", "TEXT")
    kind: Literal["instance", "style", "memorised"] = common("instance", "What the target is.")
    method: Literal["default", "model", "noise", "esd", "uce"] = common("default", "How it is taken out.")
    train: Literal["cross-attention", "embedding", "unet"] = Field("cross-attention", description="What changes.")
    steps: int = common(200, "Optimizer steps; by default the method's own.", ge=0)
    learning_rate: float = common(1e-4, "Peak learning rate; by default the method's own.", gt=0)
    prompts: str = option("", "Prompts that name the anchor, or have {} in its place: a file, one a line.", "FILE")
    retain: list[str] = Field([], description="A prompt whose pictures are to stay as they are; repeatable.")
    anchor_images: int = Field(2, ge=1, description="Pictures of each prompt, drawn by the base.")
    regularise: float = Field(1.0, ge=0, description="Weight of the loss on what is to stay.")
    force: bool = Field(False, description="Go on where the base does not seem to know the target.")

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, values: dict[str, Any]) -> dict[str, Any]:
        usual = _asked(values)
        return {"steps": usual.steps, "learning_rate": usual.learning_rate, **values}


class Ablate(Recipe):
    """Shifts of the weights that read the text, or of the whole U-Net."""

    Config = AblateOptions
    adapts, suite = True, "erase"
    example: ClassVar = {"target": ["teddy bear"], "anchor": ["dog"], "images": "", "force": True, "anchor_images": 1}

    def __init__(self, config: AblateOptions, model: LatentDiffusion) -> None:
        super().__init__(config, model)
        self.method = METHODS[config.method]
        self.concepts = concepts(config.target, config.anchor)
        self.pairs = with_room(model, pairs_of(self.concepts, config.kind, config.prompts))
        self.shifts = shift(model.unet, TRAINED[config.train])
        spelled = self.concepts if config.train == "embedding" else []
        self.words = [Word(it.target, tuple(teach(model, own_words(model, it.target)))) for it in spelled]
        self.rows = torch.nn.ParameterList(rows.requires_grad_(True) for word in self.words for rows in word.vectors)

    @classmethod
    def usual(cls, given: Mapping[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        """What the base brings along, but for what the method has no use for."""
        return {name: value for name, value in defaults.items() if name not in _asked(given).unused}

    @classmethod
    def check(cls, config: AblateOptions) -> None:
        if config.images:
            raise RequestError("--images is not for ablate, whose pictures the base draws itself; leave it out.")
        without_folder(config, "caption_dropout")
        for flag in changed(config, *METHODS[config.method].unused):
            raise RequestError(f"{flag} does nothing with --method {config.method}; leave it out.")
        if config.method == "uce" and config.train == "embedding":
            raise RequestError("--method uce solves for the weights that read the text; leave out --train embedding.")
        pairs_of(concepts(config.target, config.anchor), config.kind, config.prompts)

    @classmethod
    def default_name(cls, config: AblateOptions) -> str:
        return "-".join(["no", *re.findall(r"\w+", concepts(config.target, config.anchor)[0].target)])[:60]

    def data(self, run: Run) -> Source:
        """Pictures that the base draws of the anchors, and for `default` of the targets and of what is to stay."""
        if not self.config.force:
            check_known(self.config, self.model, self.pairs)
        kept = [text for text in self.config.retain if not any(it.named(text) for it in self.concepts)]
        self.lessons = Lessons.of(self.config, self.model, self.pairs, kept, self.method.stays)
        return self.lessons.source

    def begin(self) -> None:
        """The solution in closed form, where the method begins with it."""
        readers = [one for path, one in self.shifts.items() if re.fullmatch(READERS, path)]
        if self.method.solved and readers:
            stays = self.lessons.told([*self.lessons.kept, *self.lessons.words])
            solve(readers, self.model.tokenizers[0], self.lessons.told, self.pairs, stays, HOLD)

    def forward(self, batch: Batch) -> Tensor:
        x = self.model.noised(batch, self.config.noise_offset)
        error = self.method.loss(self, x, *self.lessons.taken(batch))
        return error * self.model.loss_weight(x.t, self.config)

    def predicted(self, x: Noised, prompts: list[str]) -> Tensor:
        """What the model predicts now."""
        told = self.model.encode_prompts(prompts) if self.words else self.lessons.told(prompts)
        return self.model.predict(x.noisy, x.t, told).float()

    @torch.no_grad()
    def known(self, x: Noised, prompts: list[str]) -> Tensor:
        """What the base predicts."""
        with unshifted(self.model.unet):
            return self.model.predict(x.noisy, x.t, self.lessons.told(prompts)).float()

    def artifact(self) -> Export:
        said = ", ".join(f"{it.target} -> {it.anchor}" for it in self.concepts)
        facts = {**self.metadata(), "description": f"takes out: {said}", ERASES: noted(self.concepts, self.config.kind)}
        files = [Embedding.of(self.model, word, facts) for word in self.words]
        if not files:
            return Lora.from_model(self.model, facts)
        return Together({f"-{number + 1}" if number else "": one for number, one in enumerate(files)})

    def prompts(self, source: Source) -> list[str]:
        first = [next(pair for pair in self.pairs if pair.target_words == it.target) for it in self.concepts[:2]]
        return list(dict.fromkeys([*(it.target for it in first), *(it.anchor for it in first), *self.lessons.kept[:2]]))


@dataclass(frozen=True)
class Method:
    """An objective, and how it is usually trained.

    Attributes:
        stays: whether targets' pictures, and those of what is to stay, are trained on beside anchors'.
        solved: whether it begins with the solution in closed form.
        unused: options that it has no use for.
    """

    loss: Callable[[Ablate, Noised, list[str], list[str]], Tensor]
    steps: int
    learning_rate: float
    stays: bool = False
    solved: bool = False
    unused: tuple[str, ...] = ()


def _default(it: Ablate, x: Noised, targets: list[str], anchors: list[str]) -> Tensor:
    error = _apart(it.predicted(x, targets), it.known(x, anchors))
    stays = torch.tensor([one == other for one, other in zip(targets, anchors, strict=True)], device=error.device)
    return torch.where(stays, it.config.regularise * error, error)


def _model(it: Ablate, x: Noised, targets: list[str], anchors: list[str]) -> Tensor:
    anchor = it.predicted(x, anchors)
    return _apart(it.predicted(x, targets), anchor.detach()) + it.config.regularise * x.error(anchor)


def _noise(it: Ablate, x: Noised, targets: list[str], anchors: list[str]) -> Tensor:
    return x.error(it.predicted(x, targets)) + it.config.regularise * x.error(it.predicted(x, anchors))


def _esd(it: Ablate, x: Noised, targets: list[str], anchors: list[str]) -> Tensor:
    blank = [""] * len(targets)
    noisy, t = partway(it.model, x.noise, it.lessons.told(targets), it.lessons.told(blank), x.t, steps=20, guidance=3)
    way = replace(x, noisy=noisy, t=t)
    empty = it.known(way, blank)
    return _apart(it.predicted(way, targets), empty - (it.known(way, targets) - empty))


def _asked(values: Mapping[str, Any]) -> Method:
    """The method that options ask for, as far as they have been read."""
    return METHODS.get(str(values.get("method", "default")), METHODS["default"])


def _apart(made: Tensor, wanted: Tensor) -> Tensor:
    return (made - wanted).square().mean((1, 2, 3))


METHODS = {
    "default": Method(_default, 200, 1e-4, stays=True, solved=True),
    "model": Method(_model, 100, 1.6e-5, unused=("retain",)),
    "noise": Method(_noise, 100, 1.6e-5, unused=("retain",)),
    "esd": Method(_esd, 200, 5e-5, unused=("retain", "regularise", "snr_gamma", "v_like")),
    "uce": Method(_default, 0, 1e-4, solved=True, unused=("regularise",)),
}
