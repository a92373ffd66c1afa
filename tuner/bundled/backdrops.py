"""What is behind the subjects: a named colour, flat or in two tones of it."""

import numpy as np
from PIL import Image

COLOURS = {
    "red": (214, 40, 40), "orange": (245, 140, 30), "yellow": (250, 220, 60), "green": (50, 160, 70),
    "blue": (40, 80, 210), "purple": (130, 60, 170), "pink": (250, 160, 200), "brown": (125, 80, 45),
    "black": (22, 22, 24), "white": (250, 250, 250), "gray": (140, 142, 146), "cyan": (70, 205, 220),
}  # fmt: skip
TEXTURES = ("", "striped", "dotted", "checkered")
PAPER = (244, 242, 236)  # what a pencil sketch is drawn on: its caption names no background


def backdrop(colour: str, texture: str, grain: int, side: int) -> Image.Image:
    """RGB, `side` x `side`; paper where `colour` is "". `grain` is the seed of the pattern's width, turn and start."""
    middle = COLOURS.get(colour, PAPER)
    if not texture:
        return Image.new("RGB", (side, side), middle)
    light, dark = tones(colour)
    rng = np.random.default_rng((grain, 2))
    width = side * rng.uniform(0.17, 0.25)
    y, x = np.mgrid[:side, :side] + rng.uniform(0, width, (2, 1, 1))
    if texture == "striped":
        line = (x, y, (x + y) / 2**0.5, (x - y) / 2**0.5)[int(rng.integers(4))]
        first = line % width < width / 2
    elif texture == "checkered":
        first = (x // (width / 1.3) + y // (width / 1.3)) % 2 == 0
    else:
        shifted = x + (y // width) % 2 * width / 2  # every other row of dots is moved by half a step
        dots = np.hypot(shifted % width - width / 2, y % width - width / 2) < 0.32 * width
        first = dots != (np.mean(middle) > 127)  # dark dots on a bright colour: what there is more of names it
    return Image.fromarray(np.where(first[..., None], light, dark).astype(np.uint8))


def tones(colour: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A lighter and a darker tone of a colour: its name still fits both."""
    middle = COLOURS[colour]
    return tuple(round(c + 0.22 * (255 - c)) for c in middle), tuple(round(0.84 * c) for c in middle)
