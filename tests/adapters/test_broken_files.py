"""Broken, poisoned and misnamed files on the disk: a named error in one sentence, never a traceback, never a pickle."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tuner.adapters.artifact import Artifact
from tuner.adapters.container import read_header
from tuner.errors import RequestError

KEY = "lora_unet_conv_in.lora_down.weight"


def entry(begin: int = 0, end: int = 16, shape: object = (2, 2), dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [begin, end]}


def container(header: object, data: int = 16, length: int | None = None) -> bytes:
    """A file: the header's length (true, or as told), the header, zeros."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data)


HUGE = 2**62
BROKEN = {
    "empty": (b"", "it is empty"),
    "short": (b"abc", "has only 3 bytes"),
    "no header": ((50).to_bytes(8, "little"), "would have 50 bytes"),
    "header too large": (container({KEY: entry()}, length=2**40), "would have 1099511627776 bytes"),
    "header past the end": (container({KEY: entry()}, length=500), "would have 500 bytes"),
    "header of all bits": (b"\xff" * 8 + b"{}", "would have"),
    "not JSON": (container(b'{"a": '), "header is not JSON"),
    "deep JSON": (container(b"[" * 100_000), "header is not"),
    "not text": (container(b'{"\xff\xfe": 1}'), "header is not text"),
    "not a table": (container([1, 2]), "header is not a table"),
    "overlap": (container({"a": entry(0, 16), "b": entry(8, 24)}, 24), "`b` overlaps"),
    "hole": (container({"a": entry(0, 16), "b": entry(24, 40)}, 40), "`b` leaves a gap"),
    "shape mismatch": (container({KEY: entry(shape=(3, 2))}), "16 bytes for F32 of shape (3, 2)"),
    "trailing bytes": (container({KEY: entry()}, 20), "4 bytes follow"),
    "cut short": (container({KEY: entry()}, 12), "ends 4 bytes too early"),
    "overflow": (container({KEY: entry(shape=(HUGE, HUGE, 4))}), "of shape"),
    "overflow in places": (container({KEY: entry(0, 2**64 + 16)}), "make no sense"),
    "backwards": (container({KEY: entry(16, 0)}), "has -16 bytes"),
    "negative": (container({KEY: entry(shape=(-2, -2))}), "make no sense"),
    "a fraction": (container({KEY: entry(shape=(2.0, 2))}), "make no sense"),
    "no shape": (container({KEY: {"dtype": "F32", "data_offsets": [0, 16]}}), "make no sense"),
    "a number": (container({KEY: 3}), "make no sense"),
    "unknown type": (container({KEY: entry(dtype="F99")}), "unknown type F99"),
    "metadata": (container({"__metadata__": {"a": 1}, KEY: entry()}), "not a table of strings"),
    "name twice": (
        container(f'{{"{KEY}":{json.dumps(entry())},"{KEY}":{json.dumps(entry())}}}'.encode()), f"`{KEY}` stands twice"
    ),
    "metadata twice": (container(b'{"__metadata__":{"a":"1"},"__metadata__":{"a":"2"}}', 0), "stands twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named(name: str, tmp_path: Path) -> None:
    data, words = BROKEN[name]
    path = tmp_path / "cat.safetensors"
    path.write_bytes(data)
    for reader in (Artifact.load, read_header):
        with pytest.raises(RequestError, match=r"cat\.safetensors is not a whole safetensors file: .*again\.$") as told:
            reader(path)
        assert words in str(told.value) and "\n" not in str(told.value)


def test_a_name_twice_is_what_the_library_takes(tmp_path: Path) -> None:
    """Or this check were needless."""
    from safetensors.torch import load_file

    path = tmp_path / "cat.safetensors"
    path.write_bytes(BROKEN["name twice"][0])
    assert list(load_file(path)) == [KEY]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "cat.safetensors"
    Artifact({"good": torch.ones(2, dtype=dtype), KEY: torch.tensor([1, value], dtype=dtype)}).save(path)
    with pytest.raises(RequestError, match=f"not finite in `{KEY}`"):
        Artifact.load(path)
    assert set(read_header(path).entries) == {"good", KEY}


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path("unpickled"),)


@pytest.mark.parametrize("name", ["cat.ckpt", "cat.pt", "cat.pth", "cat.bin", "CAT.PT", "cat.safetensors"])
@pytest.mark.parametrize("kind", ["zip", "bare", *(f"protocol {n}" for n in range(2, 6))])
def test_pickles_are_refused_whatever_they_are_called(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if kind.startswith("protocol"):
        path.write_bytes(pickle.dumps(Trap(), int(kind[-1])))
    else:
        torch.save({"trap": Trap()}, path, _use_new_zipfile_serialization=kind == "zip")
    for reader in (Artifact.load, read_header):
        with pytest.raises(RequestError, match=r"is a pickle .*may run code"):
            reader(path)
    assert not Path("unpickled").exists()


def test_a_folder_a_missing_file_and_a_good_one(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is a folder"):
        Artifact.load(tmp_path)
    with pytest.raises(RequestError, match="no such file"):
        Artifact.load(tmp_path / "dog.safetensors")
    path = tmp_path / "cat.safetensors"
    tensors = {"a": torch.ones(2, 3), "none": torch.empty(0, 4), "one": torch.tensor(2), "b": torch.ones(3).bfloat16()}
    for padding in range(80):  # headers of every length, those that begin like a pickle among them
        Artifact(tensors, {"words": "x" * (500 + padding)}).save(path)
        assert Artifact.load(path).tensors.keys() == tensors.keys()
    assert read_header(path).entries["a"].shape == (2, 3) and read_header(path).metadata["words"]
    eighth = tmp_path / "eight.safetensors"
    Artifact({"a": torch.ones(4).to(torch.float8_e4m3fn)}).save(eighth)
    assert Artifact.load(eighth).tensors["a"].dtype == torch.float8_e4m3fn
