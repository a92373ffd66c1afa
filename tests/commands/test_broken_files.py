"""Broken and misplaced files under every command that takes one: a sentence, exit code 2, nothing left behind."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters.drawn import adapter, apart, deltas, saved, with_rows
from tuner.adapters.artifact import Artifact
from tuner.models.latent_diffusion import LatentDiffusion


@pytest.fixture(scope="session")
def base(tiny_base: str) -> LatentDiffusion:
    return LatentDiffusion.load(tiny_base)


@pytest.fixture
def good(base: LatentDiffusion, tmp_path: Path) -> Path:
    return saved(adapter(base, 1), tmp_path / "good.safetensors")


# -- what is wrong with a file: its bytes -> others, and words of the sentence -----------------------------------------


def edited(data: bytes, edit: Callable[[dict[str, Any], str], str]) -> bytes:
    """A file whose header's text is another; `edit` is given the header and the name of its first tensor."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    text = edit(header, next(name for name in header if name != "__metadata__")).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def longer(header: dict[str, Any], name: str) -> str:
    header[name]["shape"] = [*header[name]["shape"], 9]
    return json.dumps(header)


def twice(header: dict[str, Any], name: str) -> str:
    return json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"


def poisoned(data: bytes) -> bytes:
    """One number of the last matrix is not one."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    matrices = {name: said for name, said in header.items() if len(said.get("shape", ())) > 1}
    end = 8 + size + matrices[max(matrices)]["data_offsets"][1]
    return data[: end - 4] + b"\x00\x00\xc0\x7f" + data[end:]


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda data: data[:-40], "not a whole safetensors file"),
    "empty": (lambda data: b"", "it is empty"),
    "header cut": (lambda data: data[:50], "would have"),
    "lies about a length": (lambda data: edited(data, longer), "not a whole safetensors file"),
    "a name twice": (lambda data: edited(data, twice), "stands twice in its header"),
    "a pickle": (lambda data: pickle.dumps({"a": 1}), "pickle"),
    "not a number": (poisoned, "not finite"),
}

# -- the commands: the words of each, but for --out --------------------------------------------------------------------

OF_ADAPTERS: dict[str, Callable[[Path, Path, str], tuple[Any, ...]]] = {
    "merge": lambda bad, good, base: ("merge", bad),
    "merge with another": lambda bad, good, base: ("merge", good, bad),
    "merge into": lambda bad, good, base: ("merge", bad, "--into", base),
    "resize": lambda bad, good, base: ("resize", bad, "--rank", 2),
    "convert": lambda bad, good, base: ("convert", bad, "--to", "diffusers"),
    "inspect": lambda bad, good, base: ("inspect", bad),
    "verify": lambda bad, good, base: ("verify", bad, "--base", base),
}
OF_MODELS: dict[str, Callable[[Path, Path, str], tuple[Any, ...]]] = {
    "extract": lambda model, good, base: ("extract", model, "--from", base),
    "extract from": lambda model, good, base: ("extract", base, "--from", model),
    "merge into": lambda model, good, base: ("merge", good, "--into", model),
    "verify": lambda model, good, base: ("verify", good, "--base", model),
}


def refused(tuner: Callable, call: tuple[Any, ...], words: str, folder: Path) -> None:
    """Exit code 2, a sentence that names the file, nothing written beside what is there."""
    before, name = sorted(folder.rglob("*")), "out" if "--into" in call else "out.safetensors"
    out = () if call[0] in ("inspect", "verify") else ("--out", folder / name)
    result = tuner(*call, *out)
    assert result.exit_code == 2, result.output
    sentences = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(sentences) == 1 and "bad" in sentences[0] and words in sentences[0], result.stderr
    assert "Traceback" not in result.output
    assert sorted(folder.rglob("*")) == before


def works(tuner: Callable, good: Path, base: LatentDiffusion, folder: Path) -> None:
    """The good file beside it merges as ever."""
    out = folder / "sum.safetensors"
    assert tuner("merge", f"{good}:0.5", f"{good}:0.5", "--out", out).exit_code == 0
    assert apart(deltas(out, base), deltas(good, base)) < 1e-6


@pytest.mark.parametrize("name", BROKEN)
def test_broken_adapters(name: str, good: Path, base: LatentDiffusion, tuner: Callable, tmp_path: Path) -> None:
    change, words = BROKEN[name]
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(change(good.read_bytes()))
    for command, call in OF_ADAPTERS.items():
        if (command, name) != ("inspect", "not a number"):  # it reads the header alone
            refused(tuner, call(bad, good, base.identity), words, tmp_path)
    works(tuner, good, base, tmp_path)


def test_inspect_tells_numbers_that_are_none(good: Path, tuner: Callable, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(poisoned(good.read_bytes()))
    assert tuner("inspect", bad).exit_code == 0
    result = tuner("inspect", bad, "--deep", "--json")
    assert result.exit_code == 0 and len(json.loads(result.stdout)["deep"]["broken"]) == 1


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_models(
    name: str, part: str, good: Path, base: LatentDiffusion, tuner: Callable, tmp_path: Path
) -> None:
    """A diffusers folder of whose files one is broken."""
    change, words = BROKEN[name]
    bad = tmp_path / "bad"
    shutil.copytree(base.identity, bad)
    file = next((bad / part).glob("*.safetensors"))
    file.write_bytes(change(file.read_bytes()))
    for call in OF_MODELS.values():
        refused(tuner, call(bad, good, base.identity), words, tmp_path)
    works(tuner, good, base, tmp_path)


def test_broken_checkpoints(good: Path, base: LatentDiffusion, tuner: Callable, tmp_path: Path) -> None:
    """A single file where a model is wanted; and an adapter."""
    bad = tmp_path / "bad.safetensors"
    for name, (change, words) in BROKEN.items():
        bad.write_bytes(change(good.read_bytes()))
        for call in OF_MODELS.values():
            refused(tuner, call(bad, good, base.identity), "adapter" if name == "not a number" else words, tmp_path)


# -- files that are whole, and for something else ----------------------------------------------------------------------


def test_another_family(
    good: Path, base: LatentDiffusion, tiny_family: Callable[[str], str], tuner: Callable, tmp_path: Path
) -> None:
    """Whether the file is for it, or the model is of it. A base is looked at only where it is needed: by a DoRA."""
    other = LatentDiffusion.load(tiny_family("sdxl"))
    bad = saved(adapter(other, 1), tmp_path / "bad.safetensors")
    rows = with_rows(saved(adapter(other, 1), tmp_path / "bad-rows.safetensors"), other)
    for call, words in [
        (("merge", good, bad), "is for Stable Diffusion XL"),
        (("merge", bad, "--into", base.identity), "is for Stable Diffusion XL"),
        (("resize", rows, "--rank", 2, "--base", base.identity), "is for Stable Diffusion XL"),
        (("convert", bad, "--to", "diffusers", "--base", base.identity), "is for Stable Diffusion XL"),
    ]:
        refused(tuner, call, words, tmp_path)
    bad.unlink()
    (tmp_path / "bad").symlink_to(other.identity)
    refused(tuner, ("extract", tmp_path / "bad", "--from", base.identity), "is not of", tmp_path)
    works(tuner, good, base, tmp_path)


def test_another_base_of_the_family(
    good: Path, base: LatentDiffusion, tiny_family: Callable[[str], str], tuner: Callable, tmp_path: Path
) -> None:
    """Whose layers are of other sizes, or are not there."""
    other = LatentDiffusion.load(tiny_family("sd1"))
    bad = saved(adapter(other, 1, where=r".*down_blocks\.0.*attn2\.to_k"), tmp_path / "bad.safetensors")
    rows = with_rows(saved(adapter(other, 1), tmp_path / "bad-rows.safetensors"), other)
    for call, words in [
        (("merge", bad, "--into", base.identity), "for a weight of"),
        (("merge", good, bad), "they are for different bases"),
        (("resize", rows, "--rank", 2, "--base", base.identity), "for a weight of"),
        (("convert", bad, "--to", "diffusers", "--base", base.identity), "for a weight of"),
    ]:
        refused(tuner, call, words, tmp_path)
    result = tuner("verify", bad, "--base", base.identity)
    assert result.exit_code == 1 and "which do not fit this base's" in " ".join(result.stdout.split())
    bad.unlink()
    (tmp_path / "bad").symlink_to(other.identity)
    refused(tuner, ("extract", tmp_path / "bad", "--from", base.identity), "is not of", tmp_path)
    works(tuner, good, base, tmp_path)


@pytest.mark.parametrize("flag", [("--rank", -4), ("--rank", 0), ("--energy", -0.5), ("--energy", 2)])
def test_ranks_that_are_none(flag: tuple, good: Path, base: LatentDiffusion, tuner: Callable, tmp_path: Path) -> None:
    for call in (("merge", good, good, "--method", "svd"), ("resize", good), ("extract", base.identity, "--from", "x")):
        result = tuner(*call, *flag, "--out", tmp_path / "out.safetensors")
        assert result.exit_code == 2 and f"{flag[0]} must be" in result.stderr, result.stderr
        assert len(result.stderr.splitlines()) == 1 and [path.name for path in tmp_path.iterdir()] == [good.name]


def test_a_file_of_no_adapter(base: LatentDiffusion, good: Path, tuner: Callable, tmp_path: Path) -> None:
    """Whole, and of none of the names that are known."""
    bad = tmp_path / "bad.safetensors"
    Artifact({"weight": torch.ones(1, 2, 3, 3)}).save(bad)
    for command, call in OF_ADAPTERS.items():
        if command != "inspect":
            refused(tuner, call(bad, good, base.identity), "holds no LoRA", tmp_path)
    assert "no known kind" in tuner("inspect", bad).stdout
