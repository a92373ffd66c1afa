"""Take a concept out of a base: prompts that name the target draw its anchor, and everything else stays as it was.

What is learned is said by one of the objectives in tuner/erasure.py. The usual one begins with a solution in closed
form and trains on, on pictures that the base draws itself; its teacher is that base, with all changes taken off. Other
prompts, which are to stay, are those named by `--retain`, and words of the base's own vocabulary.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tuner.adapters.artifact import Export
from tuner.adapters.embeddings import Embedding
from tuner.adapters.lora import Lora
from tuner.adapters.together import Together
from tuner.config import common, needless, option
from tuner.data.batch import Batch
from tuner.data.lessons import Lessons, check_known
from tuner.data.options import without_folder
from tuner.data.pairs import ERASES, concepts, noted, pairs_of
from tuner.data.source import Source
from tuner.data.vocabulary import kin
from tuner.erasure import METHODS, asked
from tuner.errors import RequestError
from tuner.models.adversary import RATE, Searches
from tuner.models.changes import Changes
from tuner.models.closed_form import solve, with_room
from tuner.models.conditioning import Conditioning
from tuner.models.latent_diffusion import LatentDiffusion, Noised
from tuner.models.shifts import unadapted
from tuner.recipe import Recipe, TrainConfig
from tuner.run import Run

HOLD = 5.0  # how much more in the closed form what stays weighs than what is to change
SEARCHES = {"instance": 2, "style": 0, "memorised": 2}  # those of a style reach other styles, and take these along
NEEDLESS = {"cross-attention": ("rank",), "unet": ("rank",), "embedding": ("rank", "attacks")}  # by --train


class AblateOptions(TrainConfig):
    """Options of `tuner ablate`."""

    target: list[str] = common([], "What is to be gone, in the words of prompts; repeatable.", "TEXT")
    anchor: list[str] = common([], "What is drawn in its place: one for all targets, or one each.", "TEXT")
    kind: Literal["instance", "style", "memorised"] = common("instance", "What the target is.")
    method: Literal["default", "model", "noise", "esd", "uce"] = common("default", "How it is taken out.")
    train: Literal["lora", "cross-attention", "unet", "embedding"] = Field(
        "lora", description="What changes; by default what the method usually changes."
    )
    rank: int = Field(16, ge=1, le=1024, description="With --train lora, of the LoRA beside weights that read text.")
    steps: int = common(240, "Optimizer steps; by default the method's own.", ge=0)
    learning_rate: float = common(1e-4, "Peak learning rate; by default the method's own.", gt=0)
    prompts: str = option("", "Prompts that name the anchor, or have {} in its place: a file, one a line.", "FILE")
    retain: list[str] = Field([], description="A prompt whose pictures are to stay as they are; repeatable.")
    anchor_images: int = Field(2, ge=1, description="Pictures of each prompt, drawn by the base.")
    regularise: float = Field(1.0, ge=0, description="Weight of the loss on what is to stay.")
    attacks: int | None = Field(
        None, ge=0, description="Searches for other words, of each target, that training withstands [2; of a style 0]."
    )
    force: bool = Field(False, description="Go on where the base does not seem to know the target.")

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {**asked(values).usual, **values}


class Ablate(Recipe):
    """Weights of the U-Net, or words, that learn what an objective says."""

    Config = AblateOptions
    adapts, suite = True, "erase"
    example: ClassVar = {"target": ["teddy bear"], "anchor": ["dog"], "images": "", "force": True, "anchor_images": 1}

    def __init__(self, config: AblateOptions, model: LatentDiffusion) -> None:
        super().__init__(config, model)
        self.method = METHODS[config.method]
        self.concepts = concepts(config.target, config.anchor)
        self.pairs = with_room(model, pairs_of(self.concepts, config.kind, config.prompts))
        names = [it.target for it in self.concepts]
        self.changes = Changes(model, config.train, config.rank, config.seed, names)
        number = {pair.target: names.index(pair.target_words) for pair in self.pairs}
        count = SEARCHES[config.kind] if config.attacks is None else config.attacks
        attacked = count and "attacks" not in self.method.unused and not self.changes.words
        self.searches = Searches(model, number, count) if attacked else None

    @classmethod
    def usual(cls, given: Mapping[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        """What the base brings along, but for what the method, and what is trained, have no use for."""
        method = asked({**defaults, **given})
        train = given.get("train", defaults.get("train", method.train))
        return {k: value for k, value in defaults.items() if k not in (*method.unused, *NEEDLESS.get(str(train), ()))}

    @classmethod
    def check(cls, config: AblateOptions) -> None:
        if config.images:
            raise RequestError("--images is not for ablate, whose pictures the base draws itself; leave it out.")
        without_folder(config, "caption_dropout")
        needless(config, f"--method {config.method}", *METHODS[config.method].unused)
        needless(config, f"--train {config.train}", *NEEDLESS.get(config.train, ()))
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
        stays = [*self.config.retain, *kin(self.pairs, self.config.kind)]
        kept = [text for text in stays if not any(it.named(text) for it in self.concepts)]
        self.lessons = Lessons.of(self.config, self.model, self.pairs, kept, self.method.stays)
        return self.lessons.source

    def begin(self) -> None:
        """The solution in closed form, where the method begins with it."""
        readers = self.changes.readers
        if self.method.solved and readers:
            anchors = [] if self.method.stays else [*dict.fromkeys(pair.anchor for pair in self.pairs)]
            kept = [self.lessons.told(its) for its in ([*self.lessons.kept, *self.lessons.words], anchors) if its]
            solve(readers, self.model.tokenizers[0], self.lessons.told, self.pairs, kept, HOLD)

    def groups(self) -> list[dict[str, Any]]:
        """What changes, and what attacks it, which learns in its own way."""
        finds = self.config.optimizer == "prodigy"  # rates of its own
        searches = [self.searches.group(None if finds else RATE)] if self.searches else []
        return [*self.changes.groups(None if finds else self.config.learning_rate), *searches]

    def forward(self, batch: Batch) -> Tensor:
        x = self.model.noised(batch, self.config.noise_offset)
        taken = self.lessons.taken(batch)
        attacks = self.searches.on(batch, *taken) if self.searches else None
        return self.method.loss(self, x, *taken, attacks) * self.model.loss_weight(x.t, self.config)

    def predicted(self, x: Noised, prompts: Sequence[str]) -> Tensor:
        """What the model predicts now."""
        return self.model.predict(x.noisy, x.t, self.told(prompts)).float()

    def told(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts as the U-Net is told them; with words that train, as they are now."""
        return self.model.encode_prompts(list(prompts)) if self.changes.words else self.lessons.told(prompts)

    @torch.no_grad()
    def known(self, x: Noised, prompts: Sequence[str]) -> Tensor:
        """What the base predicts."""
        with unadapted(self.model.unet):
            return self.model.predict(x.noisy, x.t, self.lessons.told(prompts)).float()

    def artifact(self) -> Export:
        said = ", ".join(f"{it.target} -> {it.anchor}" for it in self.concepts)
        facts = {**self.metadata(), "description": f"takes out: {said}", ERASES: noted(self.concepts, self.config.kind)}
        files = [Embedding.of(self.model, word, facts) for word in self.changes.words]
        if not files:
            return Lora.from_model(self.model, facts)
        return Together({f"-{number + 1}" if number else "": one for number, one in enumerate(files)})

    def prompts(self, source: Source) -> list[str]:
        first = [next(pair for pair in self.pairs if pair.target_words == it.target) for it in self.concepts[:2]]
        return list(dict.fromkeys([*(it.target for it in first), *(it.anchor for it in first), *self.lessons.kept[:2]]))
