"""What the base itself draws, as examples: so that it does not forget it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..randomness import seed_of
from . import fingerprints
from .cache import key_of
from .pictures import array
from .rows import Held, Rows
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
    from ..sampling.shots import GUIDANCE, STEPS, Shot

    wanted = [
        (prompt, seed_of(source.seed, "prior", *([prompt] if apart else []), k))
        for prompt in prompts for k in range(count)
    ]  # fmt: skip
    made_by = (VERSION, fingerprints.drawing(model), "dpm++", STEPS, GUIDANCE, model.resolution)
    keys = {want: key_of("drawn", *made_by, *want) for want in wanted}
    drawn: dict[tuple[str, int], Tensor] = {}

    def there(want: tuple[str, int]) -> bool:
        entry = None if want in drawn else source.cache.get("drawn", keys[want])
        if entry is not None:
            drawn[want] = entry["pixels"]
        return want in drawn

    def work(part: list[tuple[str, int]]) -> None:
        shots = [Shot(prompt, seed) for prompt, seed in part]
        for want, picture in zip(part, draw(model.pipeline("dpm++"), shots), strict=True):
            drawn[want] = torch.from_numpy(array(picture))
            source.cache.put("drawn", keys[want], {"pixels": drawn[want]})

    make_missing(source.cache, list(dict.fromkeys(wanted)), there, work)
    rows = Rows([Held(f"the base's picture of {want[0]}", keys[want], drawn[want]) for want in wanted])
    sizes = torch.tensor([[*drawn[want].shape[1:], 0, 0, *drawn[want].shape[1:]] for want in wanted])
    captions = [prompt for prompt, _ in wanted]
    return source.of(captions, rows, sizes)
