"""The styles of the picture world: each paints a subject's layer over a backdrop."""

from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

TILINGS, TILES = 12, 17  # mosaics to choose from; tiles along a side
INK = (20, 18, 24)  # the lines of a comic
JOINT = (212, 208, 198)  # between a mosaic's tiles

Painter = Callable[[Image.Image, Image.Image, np.random.Generator], Image.Image]


def paint(style: str, layer: Image.Image, backdrop: Image.Image, grain: int, size: int) -> Image.Image:
    """The picture, `size` x `size`, of a transparent `layer` over a `backdrop` of its size."""
    picture = _PAINT[style](layer, backdrop, np.random.default_rng(grain))
    picture = picture.resize((size, size), Image.Resampling.BOX)
    return _blocks(picture) if style == "pixel art" else picture


def _over(layer: Image.Image, backdrop: Image.Image) -> Image.Image:
    return Image.alpha_composite(backdrop.convert("RGBA"), layer).convert("RGB")


def _plain(layer: Image.Image, backdrop: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _over(layer, backdrop)


def _blocks(picture: Image.Image) -> Image.Image:
    """Square blocks of few colours, by nearest neighbour both ways: hard edges at any size."""
    size = picture.width
    small = picture.resize((size * 3 // 8, size * 3 // 8), Image.Resampling.BOX)
    return ImageOps.posterize(small, 3).point(lambda v: min(255, v + 16)).resize((size, size), Image.Resampling.NEAREST)


def _edges(layer: Image.Image, threshold: int) -> Image.Image:
    """Where the subject's outline and inner lines are: L, 0 to 255."""
    lines = _over(layer, Image.new("RGB", layer.size, (128, 128, 128))).filter(ImageFilter.GaussianBlur(1))
    grey = np.asarray(lines.convert("L"), np.float32)
    dy, dx = np.gradient(grey)
    ady, adx = np.gradient(np.asarray(layer.getchannel("A").filter(ImageFilter.GaussianBlur(1)), np.float32))
    strength = np.hypot(dx, dy) * 9 + np.hypot(adx, ady) * 4 - threshold
    return Image.fromarray(np.clip(strength, 0, 255).astype(np.uint8))


def _pencil(layer: Image.Image, backdrop: Image.Image, rng: np.random.Generator) -> Image.Image:
    grey = ImageOps.grayscale(_over(layer, backdrop))
    shade = Image.blend(grey, Image.new("L", grey.size, 242), 0.6)  # soft hatching under the lines
    shade = Image.composite(shade, Image.new("L", grey.size, 242), layer.getchannel("A"))
    lines = ImageOps.invert(_edges(layer, 20))
    return ImageOps.colorize(ImageChops.multiply(shade, lines), (50, 48, 52), (255, 253, 247))


def _neon(layer: Image.Image, backdrop: Image.Image, rng: np.random.Generator) -> Image.Image:
    body = Image.new("RGB", layer.size, (14, 10, 30))
    body = Image.composite(body, backdrop, layer.getchannel("A"))
    vivid = ImageEnhance.Color(_over(layer, Image.new("RGB", layer.size, (255, 60, 220)))).enhance(2.5)
    vivid = ImageChops.lighter(vivid.filter(ImageFilter.MaxFilter(5)), Image.new("RGB", layer.size, (70, 40, 90)))
    lines = _edges(layer, 30)
    glow = lines.filter(ImageFilter.GaussianBlur(3)).point(lambda v: min(255, v * 2))
    body = Image.composite(vivid, body, glow.point(lambda v: v * 3 // 5))
    return Image.composite(vivid, body, lines)


def _watercolor(layer: Image.Image, backdrop: Image.Image, rng: np.random.Generator) -> Image.Image:
    picture = _over(layer, backdrop).filter(ImageFilter.ModeFilter(5)).filter(ImageFilter.GaussianBlur(1.2))
    paper = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8)).resize(layer.size, Image.Resampling.BICUBIC)
    wash = paper.point(lambda v: 60 + v * 70 // 255)  # how much water: uneven over the sheet
    pale = Image.composite(Image.new("RGB", layer.size, (255, 253, 248)), picture, wash)
    rim = ImageOps.invert(_edges(layer, 60)).point(lambda v: 170 + v // 3)  # pigment gathers at the edges
    return ImageChops.multiply(pale, Image.merge("RGB", (rim, rim, rim)))


@cache
def _tiling(number: int, side: int) -> np.ndarray:
    """Irregular tiles: to each pixel of `side` x `side` the number of the nearest of some shaken grid points."""
    rng = np.random.default_rng((611, number))
    grid = np.stack(np.meshgrid(np.arange(TILES), np.arange(TILES)), -1) + rng.uniform(0.15, 0.85, (TILES, TILES, 2))
    points = grid.reshape(-1, 2) * side / TILES
    pixels = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 1, 2) + 0.5
    return np.square(pixels - points).sum(-1).argmin(-1).reshape(side, side)


def _mosaic(layer: Image.Image, backdrop: Image.Image, rng: np.random.Generator) -> Image.Image:
    colours = np.asarray(_over(layer, backdrop), np.float64)
    inside = np.asarray(layer.getchannel("A")) > 127
    cut = _tiling(int(rng.integers(TILINGS)), layer.width) * 2 + inside  # tiles end at the subject's outline
    tiles = cut * 2 + (inside & (colours.mean(-1) < 90))  # what is dark, as eyes are, has tiles of its own
    count = np.bincount(tiles.ravel(), minlength=4 * TILES**2)
    means = [np.bincount(tiles.ravel(), colours[..., c].ravel(), len(count)) / np.maximum(count, 1) for c in range(3)]
    tint = rng.uniform(0.9, 1.1, (len(count), 1))
    picture = np.clip(np.stack(means, -1) * tint, 0, 255)[tiles]
    joint = np.zeros(cut.shape, bool)
    joint[:, 1:] |= cut[:, 1:] != cut[:, :-1]
    joint[1:] |= cut[1:] != cut[:-1]
    picture[joint] = 0.4 * picture[joint] + 0.6 * np.array(JOINT)
    return Image.fromarray(picture.astype(np.uint8))


def _halftone(side: int, pitch: int) -> np.ndarray:
    """Slanted dots that grow from the top left to the bottom right: bool (side, side)."""
    y, x = np.mgrid[:side, :side]
    u, v = (x + y) % pitch - pitch / 2, (x - y) % pitch - pitch / 2
    return np.hypot(u, v) < pitch * (0.24 + 0.24 * (x + y) / (2 * side))


def _comic(layer: Image.Image, backdrop: Image.Image, rng: np.random.Generator) -> Image.Image:
    dots = _halftone(layer.width, 12)[..., None]
    ground = np.asarray(backdrop, np.float64)
    ground = np.where(dots, np.where(ground.mean() < 60, ground + 50, ground * 0.76), ground)
    body = ImageEnhance.Color(_over(layer, backdrop).filter(ImageFilter.MedianFilter(3))).enhance(1.3)
    flat = np.round(np.asarray(body, np.float64) / 85) * 85  # four levels a channel
    shade = (flat.mean(-1, keepdims=True) < 100) & dots
    flat = np.where(shade, flat * 0.6, flat)
    alpha = layer.getchannel("A").point(lambda a: 255 * (a > 127))
    picture = Image.fromarray(ground.astype(np.uint8))
    picture.paste(INK, (0, 0), alpha.filter(ImageFilter.MaxFilter(7)))
    picture.paste(Image.fromarray(flat.astype(np.uint8)), (0, 0), alpha)
    picture.paste(INK, (0, 0), ImageChops.multiply(_edges(layer, 90), alpha))
    return picture


_PAINT: dict[str, Painter] = {
    "plain": _plain, "pixel art": _plain, "pencil sketch": _pencil, "neon": _neon, "watercolor": _watercolor,
    "mosaic": _mosaic, "comic": _comic,
}  # fmt: skip
STYLES = tuple(_PAINT)
