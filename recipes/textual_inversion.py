"""Teach a base a new word for your own pictures: a file of a few kilobytes, and a base that stays as it is.

Textual inversion (Gal et al. 2022, arXiv:2208.01618, section 3): of the whole model, nothing trains but the vectors
that stand where a prompt says the word, <fox>. They are found by the base's own loss (latent diffusion, Rombach et al.
2022, arXiv:2112.10752, eq. 2) on prompts that name it, "a photo of a <fox>". Each vector takes a token's room.
"""

import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tuner.adapters.embeddings import Embedding
from tuner.config import common, option
from tuner.data.batch import Batch
from tuner.data.source import Source, pictures, with_latents
from tuner.errors import RequestError
from tuner.evaluation.prompts import common_words
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.models.words import Word, beginning, teach
from tuner.recipe import Recipe, TrainConfig
from tuner.run import Run

# Ways to speak of a thing, and of a manner. In both, what changes from picture to picture is left unsaid.
TEMPLATES = {
    "object": (
        "a photo of a {}", "a picture of a {}", "the {}", "a close photo of a {}", "a photo of one {}",
        "a good photo of a {}", "a clear photo of the {}", "a small picture of a {}", "a bright photo of the {}",
        "a dark photo of the {}", "a photo of my {}", "a {} in the middle",
    ),
    "style": (
        "a picture in the style of {}", "a painting in the style of {}", "{} style", "a drawing in {} style",
        "a small picture in the style of {}", "a close view in the style of {}", "a scene in the style of {}",
        "art in the style of {}", "a thing drawn in the style of {}", "a landscape in the style of {}",
    ),
}  # fmt: skip


class TextualInversionOptions(TrainConfig):
    """Options of `tuner textual-inversion`."""

    token: str = common("", "What prompts will call it; by default <FOLDER>.", "TOKEN", max_length=60)
    init: str = common("", "What it resembles, in words that the base knows: where training starts.", "TEXT")
    vectors: int = common(1, "Vectors of the token: its capacity, and the room that it takes in prompts.", ge=1, le=64)
    template: str = common(
        "object", "Prompts of training: object, style, captions (the folder's), or a FILE, one a line with {}.", "NAME"
    )
    steps: int = common(3000, "Optimizer steps.", ge=0)
    learning_rate: float = common(5e-3, "Peak learning rate.", gt=0)
    weight_decay: float = option(0.0, "Decoupled weight decay, of the token's vectors alone.", ge=0)


class TextualInversion(Recipe):
    """The vectors of one new word, in each of the base's text encoders."""

    Config = TextualInversionOptions
    adapts, suite = True, "subject"

    def __init__(self, config: TextualInversionOptions, model: LatentDiffusion) -> None:
        super().__init__(config, model)
        self.token = token_of(config)
        rows = teach(model, beginning(model, self.token, config.vectors, config.init, config.seed))
        self.rows = torch.nn.ParameterList(one.requires_grad_(True) for one in rows)
        self.templates = [text.replace("{}", self.token) for text in templates(config)]

    @classmethod
    def default_name(cls, config: TextualInversionOptions) -> str:
        return token_of(config).strip("<>")

    @classmethod
    def check(cls, config: TextualInversionOptions) -> None:
        super().check(config)
        token_of(config)
        templates(config)

    @classmethod
    def subject(cls, config: TextualInversionOptions) -> str:
        return token_of(config) if config.template == "style" else f"a {token_of(config)}"

    def data(self, run: Run) -> Source:
        """The pictures with their captions, in which the token will stand for the words that all of them share."""
        config = self.config.model_copy(update={"caption": self.config.caption or self.subject(self.config)})
        source = with_latents(pictures(config, self.model), self.model)
        self.shared = common_words(source.captions)
        return source

    def forward(self, batch: Batch) -> Tensor:
        x = self.model.noised(batch, self.config.noise_offset)
        error = x.error(self.predict(x.noisy, x.t, replace(batch, captions=self._prompts(batch))))
        return error * self.model.loss_weight(x.t, self.config)

    def _prompts(self, batch: Batch) -> tuple[str, ...]:
        """A prompt that names the token for each example that is told anything: a template, or its own caption."""
        known = self.templates
        if not known:
            return tuple(self._named(caption) if caption else "" for caption in batch.captions)
        chosen = batch.draw.here.integers("template", len(known)).tolist()
        return tuple(known[number] if caption else "" for number, caption in zip(chosen, batch.captions, strict=True))

    def _named(self, caption: str) -> str:
        """A caption with the token for the words that all captions share, or else before it."""
        if self.token in caption.lower():
            return caption
        subject, shared = self.subject(self.config), re.escape(self.shared)
        found = re.search(rf"(?<!\w){shared}(?!\w)", caption) if shared else None
        return f"{caption[: found.start()]}{subject}{caption[found.end() :]}" if found else f"{subject}, {caption}"

    def prompts(self, source: Source) -> list[str]:
        return self.templates[:4] or [self._named(caption) for caption in super().prompts(source)]

    def artifact(self) -> Embedding:
        said = {"called": self.subject(self.config), "began": self.config.init}
        return Embedding.of(self.model, Word(self.token, tuple(self.rows)), {**self.metadata(), **said})


def token_of(config: TextualInversionOptions) -> str:
    """The token, in small letters, as text encoders read it; by default `<folder>`.

    Raises:
        RequestError: it is not one word.
    """
    if not config.token:
        return f"<{re.sub(r'[^0-9a-z]+', '-', Path(config.images).resolve().name.lower()).strip('-') or 'it'}>"
    if not re.fullmatch(r"[^\s/\\{}]*\w[^\s/\\{}]*", config.token):
        raise RequestError(f"--token {config.token!r} is not one word; name it as in --token '<fox>'.")
    return config.token.lower()


def templates(config: TextualInversionOptions) -> tuple[str, ...]:
    """The prompts of training, with {} for the token; none where captions are.

    Raises:
        RequestError: there is no such file, or it holds a line without {}.
    """
    if config.template in ("captions", *TEMPLATES):
        return TEMPLATES.get(config.template, ())
    try:
        lines = Path(config.template).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        known = ", ".join((*TEMPLATES, "captions"))
        raise RequestError(f"--template {config.template} is no text file; name one, or {known}.") from None
    found = tuple(line.strip() for line in lines if line.strip())
    without = next((line for line in found if "{}" not in line), None if found else "")
    if without is not None:
        raise RequestError(f'--template {config.template}: "{without}" has no {{}}, where the token goes.')
    return found
