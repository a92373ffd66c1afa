"""Pictures for the tests of the data: made here, real in every byte."""

import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tuner.config import build
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.recipe import TrainConfig


@pytest.fixture(scope="session")
def model(tiny_base) -> LatentDiffusion:
    """The tiny base: 32 x 32, unit 8. Tests leave it as it is."""
    return LatentDiffusion.load(tiny_base)


@pytest.fixture
def options(tmp_path):
    """The options of a training on a folder; each test has a cache of its own."""

    def make(images: object, **more: object) -> TrainConfig:
        values = {"images": str(images), "batch_size": 2, "cache": str(tmp_path / "its cache"), **more}
        return build(TrainConfig, values)

    return make


@pytest.fixture
def picture():
    """A picture that looks like no other of another number: smooth waves, as a photograph has."""

    def make(number: int, size: tuple[int, int] = (40, 40)) -> Image.Image:
        random = np.random.default_rng(number)
        x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
        planes = []
        for _ in range(3):
            a, b, c, d = random.uniform(2, 9, 4)
            planes.append(np.sin(a * x + b * y + c) + np.cos(d * x * y + a))
        values = np.stack(planes, -1)
        return Image.fromarray(((values + 2) * 63).astype(np.uint8))

    return make


@pytest.fixture
def png16():
    """Write a PNG of 16 bits: values (H, W, C) with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels."""

    def write(path: Path, values: np.ndarray) -> Path:
        height, width, channels = values.shape
        kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
        head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(lines)) + IEND)
        return path

    return write


@pytest.fixture
def bomb():
    """Write a PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def write(path: Path) -> Path:
        head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(b"\0")) + IEND)
        return path

    return write


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


IEND = _chunk(b"IEND", b"")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
