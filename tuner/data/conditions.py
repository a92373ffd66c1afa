"""What pictures are steered by: computed from the pictures themselves, or given: in a folder as pictures of their
names, or in a column of the data set.

The choice follows Zhang et al. 2023 (arXiv:2302.05543), section 4, and Mou et al. 2023 (arXiv:2302.08453), section 4:
Canny's edges (Canny 1986, doi:10.1109/TPAMI.1986.4767851), soft edges, and spatial palettes.
"""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from ..errors import RequestError
from .cache import Cache, key_of
from .given import COLUMN, in_column, in_folder, naming
from .options import Condition
from .pictures import BadPicture
from .rows import Row, Rows
from .sharing import make_missing

if TYPE_CHECKING:
    from .source import Source

VERSION = 1  # of how they are computed; a change of it makes the cache's entries new
CELLS = 8  # of a colour grid, along the shorter side; a blur leaves detail of half a cell


def computed(how: str, picture: Image.Image) -> np.ndarray:
    """A condition of an RGB picture, of the same size: uint8, (H, W) or (H, W, 3)."""
    return _WAYS[how](picture)


def _canny(picture: Image.Image) -> np.ndarray:
    """Canny's edges, white, one pixel wide, of the luminance smoothed by a deviation of one pixel."""
    from skimage.feature import canny

    return 255 * canny(_luminance(picture), sigma=1.0).astype(np.uint8)


def _soft_edge(picture: Image.Image) -> np.ndarray:
    """Sobel's gradient of the luminance, its length scaled so that a straight edge from black to white is white."""
    from skimage.filters import sobel

    return (255 * math.sqrt(2) * sobel(_luminance(picture))).clip(0, 255).round().astype(np.uint8)


def _gray(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"))


def _blur(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(min(picture.size) / CELLS / 2)))


def _colour_grid(picture: Image.Image) -> np.ndarray:
    """Squares of their mean colour."""
    cell = min(picture.size) / CELLS
    cells = max(1, round(picture.width / cell)), max(1, round(picture.height / cell))
    return np.asarray(picture.resize(cells, Image.Resampling.BOX).resize(picture.size, Image.Resampling.NEAREST))


def _luminance(picture: Image.Image) -> np.ndarray:
    return _gray(picture) / 255


_WAYS: Mapping[str, Callable[[Image.Image], np.ndarray]] = {
    "canny": _canny, "soft-edge": _soft_edge, "gray": _gray, "blur": _blur, "colour-grid": _colour_grid,
}  # fmt: skip
assert set(_WAYS) == set(get_args(Condition))


# -- for training ------------------------------------------------------------------------------------------------------


def check_condition(condition: str) -> None:
    """Raises RequestError where this is no condition that can be computed, no folder and no column."""
    if condition in _WAYS or condition.startswith(COLUMN) or Path(condition).expanduser().is_dir():
        return
    near = difflib.get_close_matches(condition, _WAYS, 1)
    others = f"a folder of pictures, or {COLUMN}NAME of the data set"
    end = f"did you mean {near[0]}?" if near else f"name one of {', '.join(_WAYS)}, {others}."
    raise RequestError(f"--condition {condition}: there is no such condition and no such folder; {end}")


@dataclass(frozen=True)
class Steer:
    """A condition: in the cache, or made anew from a picture; `how` is empty where it is the picture itself."""

    picture: Row
    how: str
    cache: Cache

    @property
    def name(self) -> str:
        return self.picture.name

    @property
    def key(self) -> str:
        return key_of("conditions", VERSION, self.how, self.picture.key)

    def read(self) -> Tensor:
        """uint8, (1 or 3, H, W). Raises BadPicture."""
        if not self.how:
            return self.picture.read()
        entry = self.cache.get("conditions", self.key)
        if entry is None:
            made = computed(self.how, Image.fromarray(self.picture.read().permute(1, 2, 0).numpy()))
            plain = made[None] if made.ndim == 2 else made.transpose(2, 0, 1)
            entry = {"condition": torch.from_numpy(plain.copy())}
            self.cache.put("conditions", self.key, entry)
        return entry["condition"]


def with_conditions(source: Source, condition: str, images: str) -> Source:
    """The source, whose pictures are not encoded yet, with a condition for each, made once.

    Args:
        condition: what is computed from the pictures, a folder of pictures of the same names and sizes, or
            `column:NAME`, a column of the data set that names or holds pictures of the same sizes.
        images: the data set of the pictures.

    Raises:
        RequestError: the folder or the column lacks one, or one has another size than its picture or cannot be read.
    """
    assert source.pixels is not None
    known, pictures = condition in _WAYS, source.pixels.rows
    if condition.startswith(COLUMN):
        pictures = in_column(pictures, condition, images)
    elif not known:
        pictures = in_folder(pictures, Path(condition).expanduser(), images)
    steers = [Steer(picture, condition if known else "", source.cache) for picture in pictures]
    rows = Rows(steers)

    def there(steer: Steer) -> bool:
        return rows.knows(steer.key) or (rows.full and source.cache.has("conditions", steer.key))

    def work(part: list[Steer]) -> None:
        for steer in part:
            with contextlib.suppress(BadPicture) if known else naming(condition):  # pictures are judged by others
                rows.keep(steer.key, steer.read())

    make_missing(source.cache, "steering picture", list({steer.key: steer for steer in steers}.values()), there, work)
    return replace(source, controls=rows)
