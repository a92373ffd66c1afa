"""`tuner verify`: what lands where, as a page and as JSON; the exit code says whether it is whole."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import inject_adapter_in_model

from tests.adapters.conftest import ATTENTION, TEXT, fill, settings
from tuner.adapters.artifact import Artifact
from tuner.adapters.lora import Lora
from tuner.models.latent_diffusion import LatentDiffusion


@pytest.fixture(scope="module")
def written(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Path]]:
    """A variant's two files, for the tiny base."""

    def made(variant: str) -> list[Path]:
        live = LatentDiffusion.load(tiny_base)
        for network, where in ((live.unet, ATTENTION), (live.text_encoder, TEXT)):
            inject_adapter_in_model(settings(variant, where), network)
        fill(live)
        return Lora.from_model(live).write(tmp_path_factory.mktemp(variant), "cat", torch.float32)

    return made


@pytest.mark.parametrize(
    ("variant", "kohya"),
    [("lora", ["diffusers", "ComfyUI", "A1111"]), ("loha", ["ComfyUI", "A1111"]), ("dora", ["ComfyUI"])],
)
def test_what_we_write_is_whole(
    variant: str, kohya: list[str], written: Callable[[str], list[Path]], tiny_base: str, tuner: Callable
) -> None:
    for path, programs in zip(written(variant), (kohya, ["diffusers"]), strict=True):
        result = tuner("verify", path, "--base", tiny_base, "--json")
        told = json.loads(result.stdout)
        assert result.exit_code == 0 and told["whole"] and told["base"] == tiny_base
        assert [name for name, program in told["programs"].items() if program["for"]] == programs
        assert all(told["programs"][name]["whole"] and not told["programs"][name]["problems"] for name in programs)
        others = [program for name, program in told["programs"].items() if name not in programs]
        assert all(not program["whole"] and program["problems"] for program in others)
    page = tuner("verify", path, "--base", tiny_base).stdout
    assert "✓" in page and "Whole in what it is for: diffusers." in page and "not for this program" in page


def test_a_part_that_is_lost(
    written: Callable[[str], list[Path]], tiny_base: str, tuner: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = written("lora")[0]
    artifact = Artifact.load(path)
    Artifact({n.replace("attn1_to_q", "attn1_to_x"): t for n, t in artifact.tensors.items()}).save(path)
    result = tuner("verify", path, "--base", tiny_base)
    assert result.exit_code == 1 and not result.stderr
    assert "Not whole in what it is for" in result.stdout and "✗" in result.stdout and "The file" in result.stdout
    assert "is not a module of this base" in " ".join(result.stdout.split())
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    told = tuner("verify", path, "--base", tiny_base, "--json")
    assert told.exit_code == 1 and not json.loads(told.stdout)["whole"]


def test_a_file_for_another_base(
    written: Callable[[str], list[Path]], tiny_family: Callable[[str], str], tuner: Callable
) -> None:
    result = tuner("verify", written("lora")[0], "--base", tiny_family("sdxl"))
    assert result.exit_code == 1 and "0 of" in result.stdout


def test_what_cannot_be_read(tuner: Callable, tmp_path: Path, tiny_base: str) -> None:
    other = tmp_path / "other.safetensors"
    Artifact({"weight": torch.ones(1, 16, 3, 3)}).save(other)
    nan = tmp_path / "nan.safetensors"
    Artifact({"lora_unet_conv_in.lora_up.weight": torch.tensor([[float("nan")]])}).save(nan)
    for words, wanted in [
        ((tmp_path / "no.safetensors",), "no such file"), ((), "takes one file"), ((__file__,), "not a whole"),
        ((other,), "holds no LoRA"), ((nan,), "not finite"),
        ((other, "--base", tmp_path / "nothing"), "no such file or"),
    ]:  # fmt: skip
        base = () if "--base" in words else ("--base", tiny_base)
        result = tuner("verify", *words, *base, "--json")
        assert result.exit_code == 2 and wanted in result.stderr and len(result.stderr.splitlines()) == 1
        assert not result.stdout
