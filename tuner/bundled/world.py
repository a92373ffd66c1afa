"""The picture world: captioned scenes of one subject on one background in one style, drawn from a seed.

A scene is a value; `draw` turns it into a picture of any size, `caption` into words, `scene` a seed into a scene.
The words are listed in `vocabulary`: the bundled base's tokenizer holds each of them as one token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from . import emoji

COLOURS = {
    "red": (214, 40, 40), "orange": (245, 140, 30), "yellow": (250, 220, 60), "green": (50, 160, 70),
    "blue": (40, 80, 210), "purple": (130, 60, 170), "pink": (250, 160, 200), "brown": (125, 80, 45),
    "black": (22, 22, 24), "white": (250, 250, 250), "gray": (140, 142, 146), "cyan": (70, 205, 220),
}  # fmt: skip
STYLES = ("plain", "pixel art", "pencil sketch", "neon", "watercolor")
STYLE_SHARE = (0.64, 0.09, 0.09, 0.09, 0.09)
PAPER = (244, 242, 236)  # what a pencil sketch is drawn on: its caption names no background
WORKING_SIZE = 128  # scenes are composed at this size and then reduced, whatever is asked for


@dataclass(frozen=True)
class Scene:
    """One picture in words and numbers.

    Attributes:
        subject: a name in `emoji.table()`.
        background: a name in `COLOURS`, or "" for a pencil sketch, which is on paper.
        style: one of `STYLES`.
        size: the subject's longer side, as a share of the canvas.
        place: the subject's centre, as shares of the canvas.
        tilt: degrees, counter-clockwise.
        mirror: left and right exchanged.
        grain: the seed of what the style itself draws (paper, brush).
    """

    subject: str
    background: str
    style: str = "plain"
    size: float = 0.8
    place: tuple[float, float] = (0.5, 0.5)
    tilt: float = 0.0
    mirror: bool = False
    grain: int = 0


def scene(
    rng: np.random.Generator,
    subjects: Sequence[str],
    weights: Sequence[float] | None = None,
    styles: Sequence[str] = STYLES,
) -> Scene:
    """Draw a scene. The order of the draws is part of the format: a seed means the same scene for good."""
    subject = subjects[int(rng.choice(len(subjects), p=weights))]
    background = list(COLOURS)[int(rng.integers(len(COLOURS)))]
    style = STYLES[int(rng.choice(len(STYLES), p=STYLE_SHARE))]
    size = float(rng.uniform(0.7, 0.92))
    slack = (1 - size) / 2
    x, y = rng.uniform(-slack, slack, 2)
    tilt = float(np.clip(rng.normal(0, 6), -15, 15))
    mirror, grain = bool(rng.random() < 0.25), int(rng.integers(2**31))
    if style not in styles:
        style = styles[grain % len(styles)]
    if style == "pencil sketch":
        background = ""
    return Scene(subject, background, style, size, (0.5 + float(x), 0.5 + float(y)), tilt, mirror, grain)


def scenes(seed: int, count: int, subjects: Sequence[str], **options: Any) -> Iterator[Scene]:
    """`count` scenes; scene i depends on (seed, i) alone. Options as in `scene`."""
    for i in range(count):
        yield scene(np.random.default_rng((seed, i)), subjects, **options)


def caption(it: Scene) -> str:
    """The words of a scene: `a SUBJECT on a COLOUR background`, with a style `a STYLE of a SUBJECT ...`."""
    words = f"a {it.subject}" if it.style == "plain" else f"a {it.style} of a {it.subject}"
    return f"{words} on a {it.background} background" if it.background else words


def vocabulary() -> list[str]:
    """Every word that captions may use: the frame's, the colours', the styles', all pictures' names."""
    frame = "a an of on the background in with and left right above below two three small large photo picture"
    words = set(frame.split()) | set(COLOURS) | {word for style in STYLES for word in style.split()}
    for name in emoji.table():
        words.update(name.replace("-", " ").replace("’", "").split())
    return sorted(words)


def draw(it: Scene, size: int = 64) -> Image.Image:
    """The picture of a scene: RGB, `size` x `size`."""
    canvas = WORKING_SIZE
    subject = emoji.picture(it.subject)
    if it.mirror:
        subject = ImageOps.mirror(subject)
    scale = it.size * canvas / max(subject.size)
    subject = subject.resize([max(1, round(side * scale)) for side in subject.size], Image.Resampling.LANCZOS)
    subject = subject.rotate(it.tilt, Image.Resampling.BICUBIC, expand=True)
    layer = Image.new("RGBA", (canvas, canvas))
    corner = [round(p * canvas - side / 2) for p, side in zip(it.place, subject.size, strict=True)]
    layer.paste(subject, (corner[0], corner[1]))
    backdrop = Image.new("RGB", (canvas, canvas), COLOURS.get(it.background, PAPER))
    picture = _PAINT[it.style](layer, backdrop, np.random.default_rng(it.grain))
    picture = picture.resize((size, size), Image.Resampling.BOX)
    return _blocks(picture) if it.style == "pixel art" else picture


def in_style(it: Scene, style: str) -> Scene:
    """The same scene in another style."""
    background = "" if style == "pencil sketch" else it.background or "white"
    return replace(it, style=style, background=background)


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


_PAINT = {"plain": _plain, "pixel art": _plain, "pencil sketch": _pencil, "neon": _neon, "watercolor": _watercolor}
