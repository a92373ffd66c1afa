"""What the base itself draws, as examples: so that it does not forget it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..randomness import seed_of
from ..sampling.shots import GUIDANCE, STEPS, Shot
from . import fingerprints
from .cache import Cache, key_of
from .pictures import array
from .rows import Held, Row, Rows
from .sharing import make_missing

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion
    from .source import Source

VERSION = 1  # of how they are drawn; a change of it makes the cache's entries new


def imagined(source: Source, model: LatentDiffusion, prompts: Sequence[str], count: int, apart: bool = False) -> Source:
    """`count` pictures of each prompt, drawn by the model itself, as examples: what it is not to forget.

    Prior preservation: Ruiz et al. 2023 (arXiv:2208.12242), section 3.2.

    Args:
        apart: from noise of each prompt's own; else all begin from the same, and only words tell them apart.
    """
    from ..sampling.drawing import draw

    wanted = [
        (prompt, seed_of(source.seed, "prior", *([prompt] if apart else []), k))
        for prompt in prompts for k in range(count)
    ]  # fmt: skip
    made_by = (VERSION, fingerprints.drawing(model), "dpm++", STEPS, GUIDANCE, model.resolution)
    cache = source.cache

    def drawn(shots: Sequence[Shot]) -> list[Tensor]:
        return [torch.from_numpy(array(picture)) for picture in draw(model.pipeline("dpm++"), shots)]

    rows = [Imagined(Shot(*want), key_of("drawn", *made_by, *want), cache, drawn) for want in wanted]
    held: dict[str, Tensor] = {}  # what no cache keeps

    def there(row: Imagined) -> bool:
        return row.key in held or cache.has("drawn", row.key)

    def work(part: list[Imagined]) -> None:
        for row, pixels in zip(part, drawn([row.shot for row in part]), strict=True):
            if not cache.put("drawn", row.key, {"pixels": pixels}):
                held[row.key] = pixels

    make_missing(cache, "drawing picture", list({row.key: row for row in rows}.values()), there, work)
    every: list[Row] = [Held(row.name, row.key, held[row.key]) if row.key in held else row for row in rows]
    height, width = every[0].read().shape[1:]  # as are all others
    sizes = torch.tensor([[height, width, 0, 0, height, width]]).expand(len(rows), -1)
    return source.of([prompt for prompt, _ in wanted], Rows(every), sizes)


@dataclass(frozen=True)
class Imagined:
    """A picture that the base draws, uint8 (3, H, W): in the cache, or drawn anew."""

    shot: Shot
    key: str
    cache: Cache
    drawn: Callable[[Sequence[Shot]], list[Tensor]]

    @property
    def name(self) -> str:
        return f"the base's picture of {self.shot.prompt}"

    def read(self) -> Tensor:
        entry = self.cache.get("drawn", self.key)
        return self.drawn([self.shot])[0] if entry is None else entry["pixels"]
