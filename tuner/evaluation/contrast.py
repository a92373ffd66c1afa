"""The bundled contrastive judge: how well a picture of the picture world and a text go together.

A second opinion beside the classifier (`tuner.evaluation.judge`), of another architecture, with other seeds: two small
transformers, one over 64 patches of a picture (after a few convolutions) and one over the words of a text, end in
vectors of one length whose cosine is the likeness (CLIP, arXiv:2103.00020). Where the classifier has fixed classes,
this one reads captions: whole ones, parts of them, and false ones that differ from the true one in a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from ..adapters.artifact import Artifact
from ..places import PACKAGE
from .judge import COUNTS, SIDE, Block, Opinion, chunks, opinions, pixels
from .relations import Related, halves, moved, relation_text

WEIGHTS = PACKAGE / "bundled" / "judge" / "contrast.safetensors"
ABOUT = ("words", "subjects", "backgrounds", "styles", "width", "depth", "heads", "embedding")  # the file's header
PATCH = 8  # pixels
TEXT_DEPTH, LONGEST = 2, 32  # layers and words of the text tower
SUBJECT, BACKGROUND, STYLE = "a {}", "a {} background", "a {} picture"  # the texts of the classes
COUNT = ("one thing", "two things", "three things")
UNKNOWN = 1  # the number of every word that is not in the list; 0 fills short texts up


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters; a hyphen parts two words."""
    return re.findall(r"[^\W_]+", text.lower().replace("’", "").replace("'", ""))


class Layer(nn.Module):
    """Attention and a perceptron, each beside a shortcut and on normalised values. (N, T, width) -> the same."""

    def __init__(self, width: int, heads: int, wider: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.perceptron_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, wider * width), nn.GELU(), nn.Linear(wider * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: bool (N, 1, 1, T), what may be attended to."""
        split = self.queries_keys_values(self.attention_norm(x)).unflatten(2, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)  # (N, heads, T, width / heads) each
        attended = functional.scaled_dot_product_attention(query, key, value, mask)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.perceptron(self.perceptron_norm(x))


class ContrastiveJudge(nn.Module):
    """Two towers that end in vectors of one length.

    Args:
        words: the words that texts may use; others are read as one unknown word.
        subjects, backgrounds, styles: the classes of `judge`, each a text of its own.
        width, depth, heads: of the picture's tower.
        embedding: D, the length of the vectors.
    """

    def __init__(
        self,
        words: Sequence[str],
        subjects: Sequence[str],
        backgrounds: Sequence[str],
        styles: Sequence[str],
        width: int = 128,
        depth: int = 3,
        heads: int = 4,
        embedding: int = 160,
    ) -> None:
        super().__init__()
        self.words, self.subjects = tuple(words), tuple(subjects)
        self.backgrounds, self.styles = tuple(backgrounds), tuple(styles)
        self.width, self.depth, self.heads, self.embedding = width, depth, heads, embedding
        self.accuracy: dict[str, dict[str, float]] = {}  # on unseen scenes: kind -> concept -> share of right answers
        self.numbers = {word: i for i, word in enumerate(self.words, UNKNOWN + 1)}
        self.stem = _stem(width)
        self.places = nn.Parameter(torch.randn((SIDE // PATCH) ** 2, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, heads, 3) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(5 * width, embedding, bias=False)
        self.word = nn.Embedding(UNKNOWN + 1 + len(self.words), width)
        self.text_places = nn.Parameter(torch.randn(LONGEST, width) * 0.02)
        self.text_layers = nn.ModuleList(Layer(width, heads, 2) for _ in range(TEXT_DEPTH))
        self.text_norm = nn.LayerNorm(width)
        self.text_project = nn.Linear(width, embedding, bias=False)
        self.scale = nn.Parameter(torch.tensor(3.0))  # the logarithm of what a cosine is multiplied by

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> ContrastiveJudge:
        """The bundled judge, ready to use. Its words and classes come from the file's header.

        Raises:
            RequestError: the file is not there or is not whole.
        """
        file = Artifact.load(path).to(torch.float32)
        judge = cls(**{key: json.loads(file.metadata[key]) for key in ABOUT})
        judge.load_state_dict(file.tensors)
        judge.accuracy = json.loads(file.metadata["accuracy"])
        return judge.eval().requires_grad_(False)

    def features(self, pixels: Tensor) -> Tensor:
        """Vectors (N, D) of length 1 of pixels (N, 3, 64, 64) in [-1, 1]: subject, background and style together."""
        x = self.stem(pixels).flatten(2).transpose(1, 2) + self.places
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        grid = x.transpose(1, 2).unflatten(2, (SIDE // PATCH, SIDE // PATCH))
        quarters = functional.adaptive_avg_pool2d(grid, 2).flatten(1)  # where things are
        return functional.normalize(self.project(torch.cat([x.mean(dim=1), quarters], dim=1)).float(), dim=1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Vectors (M, D) of length 1 of texts; words after the thirty-second are not read."""
        rows = [[self.numbers.get(word, UNKNOWN) for word in words_of(text)[:LONGEST]] or [UNKNOWN] for text in texts]
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.places.device)
        real = tokens > 0
        x = self.word(tokens) + self.text_places[:longest]
        for layer in self.text_layers:
            x = layer(x, real[:, None, None])
        pooled = (self.text_norm(x) * real[:, :, None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
        return functional.normalize(self.text_project(pooled).float(), dim=1)

    def reads(self, text: str) -> list[str]:
        """The words of a text that the judge does not know, in order; an empty list where it can be trusted."""
        return [word for word in dict.fromkeys(words_of(text)) if word not in self.numbers]

    @torch.no_grad()
    def likeness(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """Cosines of every picture with every text, (N, M)."""
        return self._features(images) @ self._texts(texts).T

    @torch.no_grad()
    def agrees(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """Cosines of each picture with its own text, (N,)."""
        return (self._features(images) * self._texts(texts)).sum(dim=1)

    def prefers(self, images: Sequence[Image.Image], targets: Sequence[str], anchors: Sequence[str]) -> Tensor:
        """Whether each picture is more like its target than like its anchor: bool (N,)."""
        return self.agrees(images, targets) > self.agrees(images, anchors)

    @torch.no_grad()
    def judge(self, images: Sequence[Image.Image]) -> list[Opinion]:
        """An opinion of each picture: of each kind of class the likeliest text, with its softmax probability."""
        names = (self.subjects, self.backgrounds, self.styles, COUNTS)
        return [one for chunk in chunks(images) for one in opinions(self.logits(self._features(chunk)), names)]

    def logits(self, seen: Tensor) -> list[Tensor]:
        """Logits of vectors (N, D): of the texts of the subjects, the backgrounds, the styles and the counts."""
        return [self.scale.exp() * seen @ self._texts(texts).T for texts in self.class_texts()]

    def class_texts(self) -> list[list[str]]:
        """The texts by which `judge` knows its classes."""
        kinds = ((SUBJECT, self.subjects), (BACKGROUND, self.backgrounds), (STYLE, self.styles))
        return [*([template.format(name) for name in names] for template, names in kinds), list(COUNT)]

    @torch.no_grad()
    def relation_right(self, images: Sequence[Image.Image], asked: Sequence[Related]) -> list[bool]:
        """Whether each picture shows what was asked for, by texts.

        Of the half where the first subject should be, "a FIRST" must be the likeliest text of all subjects, of the
        other half "a SECOND" (`relations.halves`); and of the whole, "a FIRST left of a SECOND" likelier than the pair
        along the other axis. Turned round, whole captions are too much alike to be asked about.
        """
        subjects = self._texts(self.class_texts()[0]).T
        return [self._shows(image, it, subjects) for image, it in zip(images, asked, strict=True)]

    def _shows(self, image: Image.Image, asked: Related, subjects: Tensor) -> bool:
        whole = pixels([image]).to(self.places.device)
        seen = self.features(torch.cat([whole, halves(whole, asked.relation)[0]]))
        said = [self.subjects[i] for i in (seen[1:] @ subjects).argmax(dim=1).tolist()]
        texts = self._texts([relation_text(it) for it in (asked, *moved(asked))])
        return said == [asked.first, asked.second] and int((texts @ seen[0]).argmax()) == 0

    @torch.no_grad()
    def _features(self, images: Sequence[Image.Image]) -> Tensor:
        found = [self.features(pixels(chunk).to(self.places.device)) for chunk in chunks(images)]
        return torch.cat(found) if found else self.project.weight.new_zeros(0, self.embedding)

    def _texts(self, texts: Sequence[str]) -> Tensor:
        return torch.cat([self.texts(chunk) for chunk in chunks(texts)])


def _stem(width: int) -> nn.Sequential:
    """Convolutions that turn patches of 8 x 8 pixels into vectors. (N, 3, 64, 64) -> (N, width, 8, 8)."""
    narrow, middle = width // 4, width // 2
    first = nn.Conv2d(12, narrow, 3, padding=1)
    return nn.Sequential(nn.PixelUnshuffle(2), first, Block(narrow, middle, 2), Block(middle, width, 2))


def vocabulary(texts: Iterable[str]) -> list[str]:
    """Every word of the texts, once, in order of the alphabet."""
    return sorted({word for text in texts for word in words_of(text)})
