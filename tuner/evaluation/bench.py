"""What a suite works with: pictures before and after, drawn at the same seeds, and the networks that judge them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image

from ..errors import RequestError
from ..sampling.shots import Shot
from .asked import ASPECTS, Asked, Names
from .features import Features, JudgeFeatures, JudgeLooks, network
from .gallery import Gallery
from .judged import Judged as Judged
from .report import Grid, Line, Report, Table
from .request import Config
from .words import begin, learned, note, without

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from ..adapters.embeddings import Embedding
    from ..models.latent_diffusion import LatentDiffusion
    from ..sampling.control import Control
    from .panel import Panel
    from .text import ClipText


class Show(Protocol):
    """What is told of the work while it goes on."""

    def say(self, text: str) -> None: ...
    def working(self, text: str) -> AbstractContextManager[object]: ...
    def count(self, done: int, total: int, what: str) -> None: ...


class Bench:
    """Draws and judges for the suites. Networks are loaded when the first figure needs them.

    `drawings` are pictures before, by their shots: what is there is not drawn again, and what is drawn is added, so
    that benches of one base with the same options can share them.
    """

    def __init__(
        self, suite: str, judged: Judged, config: Config, show: Show, drawings: dict[Shot, Image.Image] | None = None
    ) -> None:
        self.suite, self.judged, self.config, self.show = suite, judged, config, show
        self._drawings = {} if drawings is None else drawings
        self._models: dict[str, LatentDiffusion] = {}
        self._pipes: dict[tuple[str, str], StableDiffusionPipeline] = {}

    # -- pictures ------------------------------------------------------------------------------------------------------

    def shots(self, prompts: Iterable[str], count: int = 0) -> list[Shot]:
        """`count` shots of each prompt (by default --count), prompt by prompt; shot k has the seed SEED + k."""
        c = self.config
        return [
            Shot(prompt, c.seed + k, "", c.steps, c.guidance, c.resolution, c.resolution)
            for prompt in prompts for k in range(count or c.count)
        ]  # fmt: skip

    def after(self, shots: Sequence[Shot]) -> list[Image.Image]:
        """What is judged draws."""
        need(self.judged.control is None, "A control network draws after conditions; judge it by --suite control.")
        with self.adapted() as pipe:
            return self.drawn(pipe, shots, "after")

    def before(self, shots: Sequence[Shot]) -> list[Image.Image]:
        """The same shots by what it is held against: the other base, or its own without the adapters.

        Of a learned word it is what the word began as, where its file says that.
        """
        from ..models.words import forgetting

        missing = [shot for shot in dict.fromkeys(shots) if shot not in self._drawings]
        if missing:
            pipe = self.pipe(self.other_base or self.judged.base)
            with forgetting(pipe):
                begin(pipe, self.words)
                self._drawings |= zip(missing, self.drawn(pipe, missing, "before"), strict=True)
        return [self._drawings[shot] for shot in shots]

    @property
    def held_against_a_base(self) -> bool:
        """Whether there is a before: adapters that can be left out, or another base."""
        return bool(self.judged.base and (self.judged.adapters or self.other_base))

    @property
    def other_base(self) -> str:
        """The base that --against names; "" where it names pictures, or nothing."""
        return self.config.against if self.config.against and not holds_pictures(self.config.against) else ""

    @cached_property
    def finished(self) -> Gallery | None:
        """The pictures of --pictures."""
        return Gallery.open(self.config.pictures, "--pictures") if self.config.pictures else None

    @cached_property
    def references(self) -> Gallery | None:
        """The pictures of --against, where it names a folder of them."""
        against = self.config.against
        return Gallery.open(against, "--against") if against and holds_pictures(against) else None

    def model(self, base: str) -> LatentDiffusion:
        """A base, loaded once."""
        from ..models.latent_diffusion import LatentDiffusion

        if base not in self._models:
            with self.show.working(f"Loading the base {base}"):
                self._models[base] = LatentDiffusion.load(base)
        return self._models[base]

    def pipe(self, base: str, sampler: str = "") -> StableDiffusionPipeline:
        """A base with a sampler, by default that of --sampler, and its weights as they draw."""
        from ..sampling.precision import chosen, hold

        key = base, sampler or self.config.sampler
        if key not in self._pipes:
            model = self.model(base)
            pipe = model.pipeline(key[1])
            hold(pipe, chosen("auto", self.device, model.family.fits_fp16), self.device)
            self._pipes[key] = pipe
        return self._pipes[key]

    def adapted(self) -> AbstractContextManager[StableDiffusionPipeline]:
        """The base with the adapters."""
        from ..adapters.apply import adapted

        return adapted(self.pipe(self.judged.base), self.judged.adapters)

    def drawn(
        self, pipe: StableDiffusionPipeline, shots: Sequence[Shot], when: str, controls: Sequence[Control] = ()
    ) -> list[Image.Image]:
        """Draw shots; `when` says in a word what for."""
        from ..sampling.drawing import draw

        drawn: list[Image.Image] = []
        for picture in draw(pipe, shots, batch_size=self.config.batch_size, controls=controls):
            drawn.append(picture)
            self.show.count(len(drawn), len(shots), f"drawing {when}, picture")
        return drawn

    # -- judges --------------------------------------------------------------------------------------------------------

    def report(
        self,
        lines: Iterable[Line],
        tables: Iterable[Table] = (),
        grids: Iterable[Grid] = (),
        notes: Iterable[str] = (),
        more: Mapping[str, Any] | None = None,
    ) -> Report:
        """The report of a suite, with what was judged, by whom, and who was left out; `more` settings of its own."""
        c, of = self.config, self.judged
        judged = {"name": of.name, "base": of.base, "pictures": c.pictures}
        judged |= {f"adapter {path.name}": f"weight {weight:g}" for path, weight in of.adapters}
        judged |= {f"control {of.control[0].name}": f"weight {of.control[1]:g}"} if of.control else {}
        judged["against"] = c.against or (f"{of.base} without it" if of.control or self.held_against_a_base else "")
        drawing = {"sampler": c.sampler, "steps": c.steps, "guidance": c.guidance, "pictures of each prompt": c.count}
        settings: dict[str, str | int | float] = {"features": self.network.name}
        settings |= {"CLIP": c.clip} if c.clip else {}
        settings |= {**drawing, "seeds": f"{c.seed} to {c.seed + c.count - 1}", **(more or {})} if of.base else {}
        left_out = [*map(note, self.words), *(self._left_out() if self.panel else [])]
        return Report(
            self.suite, of.name, {key: value for key, value in judged.items() if value}, settings,
            tuple(lines), tuple(tables), tuple(grids), (*notes, *left_out),
        )  # fmt: skip

    def _left_out(self) -> list[str]:
        assert self.panel is not None
        found = {aspect: sorted(names) for aspect, names in self.panel.excluded().items() if names}
        why = "a judge is right on under 95% of real scenes of them"
        return [f"Left out of the {aspect} figures, as {why}: {several(n, 40)}." for aspect, n in found.items()]

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    @cached_property
    def network(self) -> Features:
        """Whose features distances and likenesses are measured in."""
        return network(self.config.features, self.device)

    @cached_property
    def eyes(self) -> list[Features]:
        """In whose features pictures are like a subject or not: both bundled judges', or the named network's."""
        if self.panel is not None:
            return self.panel.networks
        return [JudgeFeatures(self.network.judge)] if isinstance(self.network, JudgeLooks) else [self.network]

    @cached_property
    def clip(self) -> ClipText | None:
        """What compares pictures with texts, where --clip names it."""
        from .text import ClipText

        return ClipText.load(self.config.clip, self.device) if self.config.clip else None

    @cached_property
    def panel(self) -> Panel | None:
        """The two bundled judges, where the base is of their world."""
        from .panel import Panel

        return Panel.load() if self.config.world else None

    @cached_property
    def asked(self) -> Callable[[str], Asked]:
        """What a prompt asks for, of what both judges can be trusted with; nothing without them."""
        if self.panel is None:
            return lambda prompt: Asked()
        subjects, backgrounds, styles = (self.panel.trusted(aspect) for aspect in ASPECTS)
        names = Names(subjects, backgrounds, styles, self.panel.excluded()["subject"])
        return lambda prompt: names.asked(self.read(prompt))

    def read_by_base(self, texts: Sequence[str]) -> np.ndarray:
        """What the base's own text encoders make of texts, in the mean of their places: (N, D)."""
        with torch.no_grad():
            rows = [self.model(self.other_base or self.judged.base).encode_prompts([text]).hidden for text in texts]
        return np.concatenate([row.float().mean(dim=1).cpu().numpy() for row in rows])

    def read(self, prompt: str) -> str:
        """A prompt as judges read it: without learned words, which none of them knows."""
        return without(prompt, self.words)

    @cached_property
    def words(self) -> list[Embedding]:
        """The learned words among the adapters that are judged."""
        return learned(self.judged.adapters)


def holds_pictures(path: str) -> bool:
    """Whether a path is a folder of pictures, and not a base: those have a model_index.json, or are files."""
    folder = Path(path)
    return folder.is_dir() and not (folder / "model_index.json").is_file()


def several(names: Sequence[str], most: int = 6) -> str:
    """Names as a list in a sentence, the first few of them."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def need(value: bool, sentence: str) -> None:
    """Raises RequestError with the sentence where the value does not hold."""
    if not value:
        raise RequestError(sentence)
