"""Bases as people have them: folders, single checkpoints, and what is refused."""

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tuner.errors import RequestError
from tuner.models import checkpoint as single
from tuner.models.architecture import published, save
from tuner.models.checkpoint import clip_tokenizer
from tuner.models.latent_diffusion import LatentDiffusion

sys.path.insert(0, str(Path(__file__).parent))
from original import checkpoint

FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture
def configs(tiny_family: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged configurations, shrunk: the shapes are the only difference to the published models."""
    for name in FAMILIES:
        shutil.copytree(tiny_family(name), tmp_path / "configs" / name, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(single, "CONFIGS", tmp_path / "configs")


def written(model: LatentDiffusion, file: Path, metadata: dict[str, str] | None = None, **more: torch.Tensor) -> str:
    save_file(checkpoint(model) | more, file, metadata)
    return str(file)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_single_file_is_its_folder(
    name: str, tiny_family: Callable[[str], str], configs: None, tmp_path: Path
) -> None:
    folder = LatentDiffusion.load(tiny_family(name))
    said = {"modelspec.prediction_type": "v" if name == "sd2" else "epsilon"}
    file = LatentDiffusion.load(written(folder, tmp_path / "model.safetensors", said))
    assert (file.family, file.prediction_type) == (folder.family, folder.prediction_type)
    assert file.zero_empty == folder.zero_empty
    for part, network in folder.networks.items():
        theirs = file.networks[part].state_dict()
        assert theirs.keys() == network.state_dict().keys()
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, theirs[key]), f"{part}.{key}"


def test_what_a_checkpoint_predicts(tiny_family: Callable[[str], str], configs: None, tmp_path: Path) -> None:
    """By its header, its own marks, the file beside it, and for SD 2 by what the U-Net answers."""
    sd2, sdxl = (LatentDiffusion.load(tiny_family(name)) for name in ("sd2", "sdxl"))
    said = written(sd2, tmp_path / "said.safetensors", {"modelspec.prediction_type": "epsilon"})
    assert LatentDiffusion.load(said).architecture == "stable-diffusion-v2-512"
    beside = written(sd2, tmp_path / "beside.safetensors")
    assert LatentDiffusion.load(beside).prediction_type == "epsilon"  # random weights do not answer -1 and less
    (tmp_path / "beside.yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert LatentDiffusion.load(beside).prediction_type == "v_prediction"
    sd2.unet.conv_out.bias.data -= 5
    assert LatentDiffusion.load(written(sd2, tmp_path / "asked.safetensors")).prediction_type == "v_prediction"
    marked = written(sdxl, tmp_path / "marked.safetensors", v_pred=torch.zeros(1), ztsnr=torch.zeros(1))
    model = LatentDiffusion.load(marked)
    assert model.prediction_type == "v_prediction"
    assert model.alphas_cumprod[-1] < 1e-6


@pytest.mark.slow
def test_a_full_size_checkpoint_loads_without_a_network(tmp_path: Path) -> None:
    model = published("sd1")
    tensors = {name: tensor.half() for name, tensor in checkpoint(model).items()}
    save_file(tensors, tmp_path / "sd15.safetensors")
    loaded = LatentDiffusion.load(str(tmp_path / "sd15.safetensors"))
    for part, network in model.networks.items():
        for key, tensor in loaded.networks[part].state_dict().items():
            assert torch.equal(tensor, network.state_dict()[key].half().float()), f"{part}.{key}"


def test_clips_tokens_are_the_published_ones() -> None:
    """Token numbers as openai/CLIP gives them."""
    first, second = clip_tokenizer(), clip_tokenizer(first=False)
    assert len(first) == 49408
    assert first("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert first("a dog", padding="max_length").input_ids[3:] == [49407] * 74
    assert second("a dog", padding="max_length").input_ids[4:] == [0] * 73


@pytest.fixture
def folder(tiny_base: str, tmp_path: Path) -> Path:
    """A diffusers folder that may be spoiled."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def edited(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refused(base: object, *words: str) -> None:
    with pytest.raises(RequestError) as error:
        LatentDiffusion.load(str(base))
    assert all(word in str(error.value) for word in words), str(error.value)
    assert str(error.value).endswith(".")


def test_a_written_folder_does_not_say_where_its_parts_came_from(
    tiny_family: Callable[[str], str], tmp_path: Path
) -> None:
    source = tiny_family("sdxl")
    save(LatentDiffusion.load(source), tmp_path / "written")
    files = [file for file in (tmp_path / "written").rglob("*.json") if "vocab" not in file.name]
    assert len(files) >= 6 and not [file for file in files if source in file.read_text()]


def test_folders_that_are_refused(folder: Path) -> None:
    edited(folder / "model_index.json", unet=["my_unet", "MyUNet"])
    refused(folder, "`unet`", "code of its own")


def test_a_config_that_wants_its_own_code_is_refused(folder: Path) -> None:
    (folder / "unet" / "evil.py").write_text("raise SystemExit('ran')\n")
    edited(folder / "unet" / "config.json", auto_map={"AutoModel": "evil.Model"})
    refused(folder, "`unet`", "code of its own")


def test_another_kind_of_model_is_refused(folder: Path) -> None:
    edited(folder / "model_index.json", _class_name="FluxPipeline")
    refused(folder, "FluxPipeline", "SDXL are known")


def test_a_refiner_is_refused(tiny_family: Callable[[str], str], tmp_path: Path) -> None:
    spoiled = Path(shutil.copytree(tiny_family("sdxl"), tmp_path / "refiner"))
    edited(spoiled / "model_index.json", text_encoder=[None, None])
    refused(spoiled, "refiner")


def test_an_inpainting_unet_is_refused(folder: Path) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"), in_channels=9)
    unet.save_pretrained(folder / "unet")
    refused(folder, "9 channels", "inpainting")


def test_weights_that_are_not_finite_are_named(folder: Path) -> None:
    model = LatentDiffusion.load(str(folder))
    model.unet.conv_in.bias.data[0] = float("nan")
    model.unet.save_pretrained(folder / "unet")
    refused(folder, "not finite", "unet.conv_in.bias")


def test_a_folder_of_pickles_alone_is_refused(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    refused(folder, "could not be loaded")


def test_a_folder_with_halved_weights_loads(folder: Path) -> None:
    whole = LatentDiffusion.load(str(folder))
    for part in ("unet", "vae", "text_encoder"):
        file = next((folder / part).glob("*.safetensors"))
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    assert torch.equal(LatentDiffusion.load(str(folder)).unet.conv_in.weight, whole.unet.conv_in.weight)


class Harmful:
    def __reduce__(self) -> tuple:
        return (Path("pwned").touch, ())


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model.ckpt", "model.bin", "model.pt", "model.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Harmful()))
        refused(tmp_path / name, name)
    (tmp_path / "model.onnx").write_bytes(b"1234")
    refused(tmp_path / "model.onnx", "not a whole safetensors")
    save_file({"lora_unet_x.lora_down.weight": torch.ones(1)}, tmp_path / "lora.safetensors")
    refused(tmp_path / "lora.safetensors", "adapter")
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", "not a whole checkpoint")
    assert not (tmp_path / "pwned").exists()


def test_a_checkpoint_of_other_shapes_is_refused(tiny_base: str, tmp_path: Path) -> None:
    file = written(LatentDiffusion.load(tiny_base), tmp_path / "tiny.safetensors")
    refused(file, "could not be loaded as Stable Diffusion 1.x")


@pytest.mark.parametrize("base", ["nowhere", "./nowhere", "a/b/c"])
def test_a_base_that_is_not_there(base: str) -> None:
    refused(base, "no such file or folder")
