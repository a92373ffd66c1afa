"""The pictures of the world: Noto Color Emoji, one transparent PNG a code point, rendered once into datasets/emoji.

The font (SIL Open Font License 1.1) holds bitmaps of 136 x 128 pixels. They are cropped to what is drawn,
so that a subject's size in a scene is its own and not that of the font's margins.
"""

import json
import unicodedata
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..places import place

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
NATIVE = 109  # the only size, in points, at which the font's bitmaps can be drawn

# What the captions call a picture where its Unicode name would be clumsy or is not what people type.
SPOKEN = {
    0x1F431: "cat", 0x1F63E: "grumpy cat", 0x1F638: "grinning cat", 0x1F639: "laughing cat", 0x1F63A: "smiling cat",
    0x1F63B: "loving cat", 0x1F63C: "smirking cat", 0x1F63D: "kissing cat", 0x1F63F: "crying cat",
    0x1F640: "weary cat", 0x1F408: "walking cat", 0x1F436: "dog", 0x1F355: "pizza", 0x1F354: "hamburger",
    0x1F697: "car", 0x1F693: "police car", 0x1F695: "taxi", 0x1F339: "rose", 0x1F680: "rocket", 0x1F916: "robot",
    0x1F34C: "banana", 0x1F34E: "apple", 0x1F353: "strawberry", 0x1F33B: "sunflower", 0x1F332: "tree",
    0x1F344: "mushroom", 0x1F438: "frog", 0x1F43C: "panda", 0x1F437: "pig", 0x1F427: "penguin", 0x1F419: "octopus",
    0x1F98B: "butterfly", 0x1F420: "fish", 0x2708: "airplane", 0x26F5: "sailboat", 0x1F3E0: "house",
    0x1F3B8: "guitar", 0x26BD: "football", 0x2602: "umbrella", 0x1F388: "balloon", 0x1F451: "crown",
    0x1F47B: "ghost", 0x1F335: "cactus", 0x1F511: "key",
    0x1F9F8: "teddy bear", 0x1F989: "owl", 0x1F984: "unicorn", 0x1F98A: "fox", 0x1F428: "koala", 0x1F42F: "tiger",
    0x1F422: "turtle", 0x1F433: "whale", 0x1F980: "crab", 0x1F34D: "pineapple", 0x1F349: "watermelon",
    0x1F951: "avocado", 0x1F369: "donut", 0x1F9C1: "cupcake", 0x1F366: "ice cream", 0x1F69C: "tractor",
    0x1F681: "helicopter", 0x1F6B2: "bicycle", 0x1F3BA: "trumpet", 0x1F941: "drum", 0x1F47E: "alien monster",
    0x26C4: "snowman", 0x1F383: "pumpkin", 0x1F5FF: "moai", 0x1F41D: "bee", 0x1F99C: "parrot",
    0x1F9F2: "magnet",
    0x2603: "snowman in snow", 0x1F368: "ice cream bowl", 0x1F405: "walking tiger", 0x1F40B: "big whale",
    0x1F415: "walking dog", 0x1F416: "walking pig", 0x1F41F: "blue fish",
    0x1F981: "lion", 0x1F992: "giraffe", 0x1F993: "zebra", 0x1F430: "rabbit", 0x1F42D: "mouse", 0x1F42E: "cow",
    0x1F435: "monkey", 0x1F424: "chick", 0x1F41E: "ladybug", 0x1F996: "dinosaur", 0x1F42B: "camel",
    0x1F407: "walking rabbit", 0x1F401: "walking mouse", 0x1F404: "walking cow", 0x1F412: "walking monkey",
    0x1F352: "cherry", 0x1F336: "chili pepper", 0x1F346: "eggplant", 0x1F9C0: "cheese",
    0x1F692: "fire truck", 0x1F682: "locomotive", 0x1F69A: "truck", 0x1F6F8: "ufo", 0x1F3CD: "motorcycle",
    0x2600: "sun", 0x1F319: "moon", 0x2B50: "star", 0x1F30D: "globe", 0x260E: "telephone", 0x1F4A1: "light bulb",
    0x1F381: "gift", 0x1F48E: "diamond", 0x1F3C0: "basketball", 0x2615: "coffee cup", 0x1FAD6: "teapot",
    0x1F45F: "sneaker", 0x1F392: "backpack", 0x1F3F0: "castle",
}  # fmt: skip

CATS = (
    "cat", "grumpy cat", "grinning cat", "laughing cat", "smiling cat", "loving cat", "smirking cat", "kissing cat",
    "crying cat", "weary cat", "walking cat",
)  # fmt: skip

FIRST = (
    *CATS, "dog", "pizza", "hamburger", "car", "police car", "taxi", "rose", "rocket", "robot", "banana", "apple",
    "strawberry", "sunflower", "tree", "mushroom", "frog", "panda", "pig", "penguin", "octopus", "butterfly", "fish",
    "airplane", "sailboat", "house", "guitar", "football", "umbrella", "balloon", "crown", "ghost", "cactus", "key",
)  # fmt: skip
"""The first of the known subjects: shown on every colour and in every style."""

KNOWN = (
    *FIRST, "lion", "elephant", "giraffe", "zebra", "rabbit", "mouse", "cow", "horse", "monkey", "sheep", "rooster",
    "chick", "duck", "flamingo", "swan", "dolphin", "shark", "snake", "snail", "ladybug", "spider", "hedgehog", "bat",
    "dinosaur", "dragon", "camel", "lemon", "pear", "cherry", "carrot", "broccoli", "chili pepper", "eggplant",
    "croissant", "pretzel", "cheese", "cookie", "lollipop", "birthday cake", "egg", "bus", "ambulance", "fire truck",
    "locomotive", "truck", "ufo", "motorcycle", "skateboard", "ship", "tulip", "palm tree", "maple leaf", "sun", "moon",
    "star", "rainbow", "fire", "volcano", "globe", "anchor", "alarm clock", "telephone", "camera", "television",
    "light bulb", "candle", "bell", "lock", "hammer", "axe", "chair", "gift", "trophy", "diamond", "basketball", "bomb",
    "coffee cup", "teapot", "bucket", "dress", "sneaker", "top hat", "backpack", "church", "castle", "tent",
)  # fmt: skip
"""The subjects that the bundled base is trained on."""

HELD_OUT = (
    "teddy bear", "owl", "unicorn", "fox", "koala", "tiger", "turtle", "whale", "crab", "pineapple", "watermelon",
    "avocado", "donut", "cupcake", "ice cream", "tractor", "helicopter", "bicycle", "trumpet", "drum",
    "alien monster", "snowman", "pumpkin", "moai", "bee", "parrot", "magnet",
)  # fmt: skip
"""Pictures that neither the base's autoencoder nor its U-Net ever sees: what newcomers train on."""


def folder() -> Path:
    return place("datasets") / "emoji"


@cache
def table() -> dict[str, str]:
    """Spoken name -> file name, for every picture."""
    lines = (folder() / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["text"]: row["file_name"] for row in map(json.loads, lines)}


@cache
def picture(subject: str) -> Image.Image:
    """The RGBA picture of a subject. Raises KeyError where the world has none of that name."""
    return Image.open(folder() / table()[subject]).convert("RGBA")


def render(out: Path, font: Path = FONT) -> int:
    """Draw every single code point that the font has in colour; return how many there are."""
    out.mkdir(parents=True, exist_ok=True)
    face = ImageFont.truetype(str(font), NATIVE)
    rows, seen = [], set()
    for point in (*range(0x00A9, 0x00AF), *range(0x203C, 0x3300), *range(0x1F004, 0x1FAFF)):
        name = unicodedata.name(chr(point), "")
        if not name or "REGIONAL INDICATOR" in name or "EMOJI MODIFIER" in name:
            continue
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((8, 16), chr(point), font=face, embedded_color=True)
        box = canvas.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()
        drawn = canvas.crop(box) if box else None
        if drawn is None or drawn.tobytes() in seen:  # the font lacks it, or draws it as it drew another
            continue
        seen.add(drawn.tobytes())
        file = f"{point:04x}.png"
        drawn.save(out / file, optimize=True)
        rows.append({"file_name": file, "text": SPOKEN.get(point, name.lower()), "unicode": name})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (out / "metadata.jsonl").write_text(text, encoding="utf-8")
    return len(rows)
