"""The one door through which pictures come in: bytes -> an RGB picture, or a sentence that names what is wrong."""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from .buckets import Placement

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
BACKGROUND = (255, 255, 255)  # what a transparent picture is laid on
PIXELS = 178_956_970  # more than any camera's; Pillow's own limit
LARGEST = 2**30  # bytes
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
ORIENTATION = 0x0112


class BadPicture(ValueError):
    """A picture that cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class Header:
    """What a picture says of itself before it is decoded: width and height, upright, and whether it has more frames."""

    size: tuple[int, int]
    animated: bool


def shown(name: str | Path) -> str:
    """A name as it can be printed: whatever is in it, it stays one line and moves no cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(name))


def contents(path: Path, name: str = "") -> bytes:
    """The bytes of a file. Pipes and devices are refused without being opened. Raises BadPicture."""
    name = name or shown(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadPicture(f"{name} cannot be read: it is not a file but a {_kind(status.st_mode)}")
        if status.st_size > LARGEST:
            raise BadPicture(f"{name} cannot be read: it has more than {LARGEST >> 30} GiB")
        return path.read_bytes()
    except FileNotFoundError:
        raise BadPicture(f"{name} cannot be read: there is no such file") from None
    except OSError as error:
        raise BadPicture(f"{name} cannot be read: {error.strerror}") from None


def header(data: bytes, name: str) -> Header:
    """Read a picture's header; nothing is decoded. Raises BadPicture."""
    with _opened(data, name) as file:
        width, height = file.size
        if _turn(file) in (5, 6, 7, 8):
            width, height = height, width
        frames = file.format in ("GIF", "WEBP", "PNG", "TIFF") and getattr(file, "is_animated", False)
        return Header((width, height), bool(frames))


def decode(data: bytes, name: str) -> Image.Image:
    """Decode a picture to RGB: turned upright, transparency laid on white, 16 bits brought down to 8.

    Raises:
        BadPicture: it cannot be decoded whole.
    """
    with _opened(data, name) as file:
        turn = _turn(file)
        file.load()
        picture = _rgb(file)
        return picture.transpose(TURNS[turn]) if turn in TURNS else picture


def read(path: Path) -> Image.Image:
    """`decode` for a file."""
    return decode(contents(path), shown(path))


def fitted(picture: Image.Image, place: Placement) -> np.ndarray:
    """A picture scaled (Lanczos) and cropped as `place` says: uint8, (3, height, width)."""
    (width, height), (wide, high) = place.bucket, place.scaled
    across, down = picture.width / wide, picture.height / high
    box = (place.left * across, place.top * down, (place.left + width) * across, (place.top + height) * down)
    return array(picture.resize((width, height), Image.Resampling.LANCZOS, box))


def array(picture: Image.Image) -> np.ndarray:
    """An RGB picture as uint8, (3, height, width)."""
    return np.asarray(picture).transpose(2, 0, 1).copy()


@contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """An open picture. Whatever Pillow trips over inside, down to its own mistakes, is a BadPicture."""
    try:
        if not data:
            raise ValueError("it is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as file:
                if file.width * file.height > PIXELS:
                    raise Image.DecompressionBombError
                yield file
    except Image.DecompressionBombError:
        reason = f"it claims more than {PIXELS:,} pixels, as decompression bombs do"
        raise BadPicture(f"{name} cannot be read: {reason}") from None
    except UnidentifiedImageError:
        raise BadPicture(f"{name} cannot be read: it is no picture of a kind known here ({_kinds()})") from None
    except Exception as error:
        reason = " ".join(str(error).split(" <")[0].split())[:200].rstrip(".") or type(error).__name__
        raise BadPicture(f"{name} cannot be read: {reason}") from None


def _kinds() -> str:
    return ", ".join(FORMATS)


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket"}
    return next((word for test, word in kinds.items() if test(mode)), "device")


def _turn(file: Image.Image) -> int:
    """The EXIF orientation, from the header alone: PNG's own `getexif` would decode. Pillow turns TIFF files itself."""
    return 1 if file.format == "TIFF" else Image.Image.getexif(file).get(ORIENTATION, 1)


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("it holds floating-point values; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):  # Pillow's own conversion cuts everything above 255 off
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("it holds values of 32 bits; save it with 8 or 16 bits")
        clear = picture.info.get("transparency")
        values = values if clear is None else np.where(values == clear, 65535, values)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, BACKGROUND), layer).convert("RGB")
    return picture.convert("RGB")
