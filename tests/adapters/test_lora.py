"""LoRA: what is written says what was trained, in both namings, bit for bit the same each time."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tuner.adapters.artifact import Artifact
from tuner.adapters.changes import LowRank
from tuner.adapters.lora import Lora
from tuner.adapters.reading import read
from tuner.errors import RequestError
from tuner.models.latent_diffusion import LatentDiffusion


def products(lora: Lora) -> dict[str, torch.Tensor]:
    """Module -> scale * B A."""
    return {name: change.update() for name, change in lora.changes.items()}


def same(one: Lora, other: Lora) -> bool:
    mine, theirs = products(one), products(other)
    return mine.keys() == theirs.keys() and all(torch.allclose(mine[n], theirs[n], rtol=1e-5, atol=1e-7) for n in mine)


def test_collects_what_peft_trained(plain: Lora) -> None:
    assert plain.targets.keys() == plain.changes.keys() and len(plain.targets) > 8
    assert (plain.variant, plain.rank, plain.alpha, plain.rslora) == ("lora", 4, 8, False)
    assert all(isinstance(change, LowRank) and change.scale == 2 for change in plain.changes.values())


def test_refuses_what_files_cannot_hold(tiny_base: str) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    fresh = LatentDiffusion.load(tiny_base)
    with pytest.raises(ValueError, match="no adapter layers"):
        Lora.from_model(fresh)
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=["to_q"]), fresh.unet)
    layer = next(module for module in fresh.unet.modules() if hasattr(module, "lora_A"))
    layer.scaling["default"] = 0.5
    with pytest.raises(ValueError, match=r"scale is 0\.5, not the 2"):
        Lora.from_model(fresh)
    biased = LatentDiffusion.load(tiny_base)
    inject_adapter_in_model(LoraConfig(r=4, lora_bias=True, target_modules=["to_q"]), biased.unet)
    with pytest.raises(ValueError, match="bias"):
        Lora.from_model(biased)


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("naming", ["to_kohya", "to_diffusers"])
def test_both_namings_are_read_back(
    make: Callable[..., Lora], base: LatentDiffusion, variant: str, naming: str
) -> None:
    lora = make(alpha=3, rank=2, unet=["to_q", "conv1"], text=["fc1"], variant=variant)
    back = Lora.from_artifact(getattr(lora, naming)(), base)
    assert same(lora, back) and back.rank == 2
    assert back.metadata["trigger_phrase"] == "sks cat" and back.metadata["config"] == lora.metadata["config"]


def test_kohya_files_hold_the_true_scale_of_rslora(make: Callable[..., Lora]) -> None:
    artifact = make(alpha=3, rank=2, variant="rslora").to_kohya()
    alphas = {tensor.item() for name, tensor in artifact.tensors.items() if name.endswith(".alpha")}
    assert len(alphas) == 1 and alphas.pop() / 2 == pytest.approx(3 / math.sqrt(2))


def test_differing_alphas_and_ranks_keep_every_modules_change(plain: Lora, base: LatentDiffusion) -> None:
    artifact = plain.to_kohya()
    tensors = dict(artifact.tensors)
    first, second = [name.removesuffix(".alpha") for name in tensors if name.endswith(".alpha")][:2]
    tensors[f"{first}.alpha"] = torch.tensor(2.0)
    tensors[f"{second}.lora_down.weight"] = tensors[f"{second}.lora_down.weight"][:1]
    tensors[f"{second}.lora_up.weight"] = tensors[f"{second}.lora_up.weight"][:, :1]
    mixed = Artifact(tensors, artifact.metadata)
    lora = Lora.from_artifact(mixed, base)
    wanted = {name: change.update() for name, change in read(mixed, base).changes.items()}
    assert lora.alpha == 8 and all(torch.allclose(wanted[n], p, rtol=1e-6) for n, p in products(lora).items())
    for rslora in (False, True):
        again = replace(lora, changes={n: replace(c, rslora=rslora) for n, c in lora.changes.items()})
        for written in (again.to_kohya(), again.to_diffusers()):
            back = Lora.from_artifact(written, base)
            assert same(again, back) and len({change.alpha for change in back.changes.values()}) == 1


def test_weights_take_the_save_precision_and_alpha_does_not(plain: Lora, tmp_path: Path) -> None:
    lora = replace(plain, changes={name: replace(change, alpha=4.1) for name, change in plain.changes.items()})
    kohya, diffusers = (Artifact.load(path) for path in lora.write(tmp_path, "half", torch.bfloat16))
    assert {t.dtype for t in diffusers.tensors.values()} == {torch.bfloat16}
    assert {t.item() for n, t in kohya.tensors.items() if n.endswith(".alpha")} == {torch.tensor(4.1).item()}


def test_kohyas_header_is_complete(plain: Lora, tmp_path: Path, base: LatentDiffusion) -> None:
    path = plain.write(tmp_path, "cat", torch.float32)[0]
    said = Artifact.load(path).metadata
    data = path.read_bytes()
    digest = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    assert said["modelspec.hash_sha256"] == f"0x{digest}" and said["sshs_model_hash"] == digest
    wanted = {
        "ss_v2": "False", "ss_base_model_version": "sd_v1", "ss_network_module": "networks.lora", "ss_network_dim": "4",
        "ss_network_alpha": "8.0", "ss_network_args": "{}", "ss_output_name": "cat",
        "modelspec.sai_model_spec": "1.0.1", "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers", "modelspec.title": "cat", "modelspec.resolution": "32x32",
        "modelspec.prediction_type": "epsilon", "modelspec.trigger_phrase": "sks cat",
        "tuner.seed": "7", "tuner.config": '{"rank": 4}', "tuner.base": base.identity,
        "sshs_legacy_hash": hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8],
    }  # fmt: skip
    assert said.items() >= wanted.items() and said["tuner.version"]
    assert "lora_adapter_metadata" not in said, "diffusers refuses it in a file of kohya's naming"


def test_diffusers_header_has_what_peft_needs(with_text: Lora) -> None:
    said = with_text.to_diffusers().metadata
    config = json.loads(said["lora_adapter_metadata"])
    assert config["unet.r"] == config["text_encoder.r"] == 4 and config["unet.lora_alpha"] == 8
    assert all(not key.startswith("ss_") for key in said) and said["modelspec.title"]


def test_families_and_convolutions_show_in_the_header(make: Callable[..., Lora]) -> None:
    lora = make(unet=["conv1"])
    words = {"kohya_version": "sd_v2_v", "architecture": "stable-diffusion-v2-768-v", "prediction_type": "v_prediction"}
    said = replace(lora, metadata={**lora.metadata, **words, "resolution": "768"}).to_kohya().metadata
    assert (said["ss_v2"], said["modelspec.prediction_type"], said["modelspec.resolution"]) == ("True", "v", "768x768")
    assert json.loads(said["ss_network_args"]) == {"conv_dim": "4", "conv_alpha": "8.0"}


def test_the_same_lora_gives_the_same_bytes(plain: Lora, tmp_path: Path) -> None:
    runs = [plain.write(tmp_path / str(i), "cat", torch.float32) for i in range(3)]
    for first, *others in zip(*runs, strict=True):
        assert all(first.read_bytes() == other.read_bytes() for other in others)


def test_a_file_for_another_base_is_refused(plain: Lora, base: LatentDiffusion) -> None:
    artifact = plain.to_kohya()
    renamed = {name.replace("down_blocks_0", "down_blocks_7"): t for name, t in artifact.tensors.items()}
    with pytest.raises(RequestError, match=r"cat.safetensors cannot be used .* not a module of this base"):
        Lora.from_artifact(Artifact(renamed), base, "cat.safetensors")
    with pytest.raises(RequestError, match="holds no LoRA"):
        Lora.from_artifact(Artifact({"<sks>": torch.ones(1, 16)}), base)


def test_the_model_cards_lines_work(
    plain: Lora, base: LatentDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = plain.usage(plain.write(tmp_path, "cat", torch.float32), 'a "cat"')
    assert "<lora:cat:1>" in text and "models/loras" in text
    monkeypatch.chdir(tmp_path)
    exec(text.split("```python\n")[1].split("```")[0].replace('cat\\"")', 'cat\\"", num_inference_steps=2)'))
    assert Path("picture.png").stat().st_size > 100
