"""Files as kohya's trainer and LyCORIS write them, under every command: what they change is what their makers compute.

peft's own and those of diffusers' scripts are in tests/commands/test_convert.py.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.adapters.drawn import apart
from tuner.adapters.artifact import Artifact
from tuner.adapters.naming import spellings, targets, weight_of
from tuner.adapters.reading import read
from tuner.models.latent_diffusion import LatentDiffusion

HEADERS = {
    "sd1": {"ss_base_model_version": "sd_v1", "ss_v2": "False"},
    "sd2": {"ss_base_model_version": "sd_v2_v", "ss_v2": "True"},
    "sdxl": {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False"},
}
Made = tuple[Path, dict[str, Tensor]]
"""A file, and what it changes each weight by, by the file's name of the module."""


@pytest.fixture(scope="session")
def bases(tiny_family: Callable[[str], str]) -> Callable[[str], LatentDiffusion]:
    return cache(lambda family: LatentDiffusion.load(tiny_family(family)))


# -- kohya's trainer ---------------------------------------------------------------------------------------------------

_UNET = ("Transformer2DModel", "Downsample2D")
_TEXT = ("CLIPAttention", "CLIPMLP")


def by_kohya(base: LatentDiffusion, folder: Path) -> Made:
    """sd-scripts' networks/lora.py with conv_dim: the layers within modules of these classes, by path; all in fp16."""
    generator, tensors, wanted = torch.Generator().manual_seed(2), {}, {}
    for prefix, network, kinds in (("lora_unet", base.unet, _UNET), ("lora_te_text_model", base.text_encoder, _TEXT)):
        for path, within in network.named_modules():
            if type(within).__name__ not in kinds:
                continue
            for child, layer in within.named_modules():
                if not isinstance(layer, nn.Linear | nn.Conv2d):
                    continue
                name = f"{prefix}_{path}_{child}".replace(".", "_")
                size, kernel = layer.weight.shape, tuple(layer.weight.shape[2:])
                rank, alpha = (2, 1.0) if kernel == (3, 3) else (3, 2.0)
                down = torch.randn(rank, *size[1:], generator=generator).half()
                up = torch.randn(size[0], rank, *(1 for _ in kernel), generator=generator).half() / 8
                tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
                tensors[f"{name}.alpha"] = torch.tensor(alpha).half()
                wanted[name] = alpha / rank * (up.flatten(1).float() @ down.flatten(1).float()).reshape(size)
    header = {**HEADERS["sd1"], "ss_network_module": "networks.lora", "ss_network_dim": "3", "ss_network_alpha": "2.0"}
    Artifact(tensors, header).save(folder / "kohya.safetensors")
    return folder / "kohya.safetensors", wanted


# -- LyCORIS -----------------------------------------------------------------------------------------------------------

PRESET = """
enable_conv = true
unet_target_module = ["Attention", "GEGLU", "Downsample2D"]
unet_target_name = ["mid_block.attentions.0.proj_in"]
text_encoder_target_module = ["CLIPAttention"]
text_encoder_target_name = []
"""
LYCORIS: dict[str, dict[str, Any]] = {
    "locon": {}, "locon with a core": {"use_tucker": True}, "rslora": {"rs_lora": True}, "scalar": {"use_scalar": True},
    "loha": {"algo": "loha"}, "loha with cores": {"algo": "loha", "use_tucker": True},
    "lokr": {"algo": "lokr", "factor": 4}, "lokr with a core": {"algo": "lokr", "factor": 4, "use_tucker": True},
    "lokr of whole factors": {"algo": "lokr", "factor": 4, "full_matrix": True},
    "lokr of products": {"algo": "lokr", "factor": 8, "decompose_both": True},
    "dora": {"dora_wd": True}, "dora of columns": {"dora_wd": True, "wd_on_output": False},
    "loha with rows": {"algo": "loha", "dora_wd": True},
    "lokr with rows": {"algo": "lokr", "factor": 4, "dora_wd": True},
}  # fmt: skip


def by_lycoris(base: LatentDiffusion, family: str, folder: Path, **how: Any) -> Made:
    """lycoris-lora's own network and saving, with values as after training."""
    from lycoris import kohya as lycoris

    encoders = [_as_it_was(encoder) for encoder in base.text_encoders]
    preset = folder / "preset.toml"
    preset.write_text(PRESET)
    torch.manual_seed(0)
    net = lycoris.create_network(
        1.0, 3, 2.0, None, encoders if len(encoders) > 1 else encoders[0], base.unet, preset=str(preset),
        warn_on_unmatched=False, conv_dim=2, conv_alpha=1.0, **how,
    )  # fmt: skip
    names, known, wanted = spellings(base), targets(base), {}
    for module in [*net.text_encoder_loras, *net.unet_loras]:
        for name, parameter in module.named_parameters():
            drawn = torch.randn_like(parameter)
            parameter.data = parameter.data * (1 + 0.1 * drawn) if "dora" in name else parameter.data + 0.1 * drawn
        weight = weight_of(base, known[names[module.lora_name]]).weight.detach()
        wanted[module.lora_name] = _by_its_forward(module, weight)
    net.apply_to(encoders, base.unet, True, True)  # what is saved is what was put in
    header = {**HEADERS[family], "ss_network_module": "lycoris.kohya"}
    net.save_weights(str(folder / "lycoris.safetensors"), torch.float32, header)
    net.restore()
    return folder / "lycoris.safetensors", wanted


def _as_it_was(encoder: nn.Module) -> nn.Module:
    """An encoder with `text_model.` in its paths, which transformers 5 has dropped from some."""
    if hasattr(encoder, "text_model"):
        return encoder
    outer = nn.Module()
    outer.text_model = encoder
    return outer


def _by_its_forward(module: Any, weight: Tensor) -> Tensor:
    """What the module's forward pass adds to a weight. Its `get_diff_weight` scales LoHa and LoKr twice (4.1.3)."""
    if hasattr(module, "get_weight"):
        difference = module.get_weight(weight.shape) * module.scalar
    else:
        difference = module.get_diff_weight(1.0, shape=weight.shape)[0]
    if getattr(module, "wd", False):
        difference = module.apply_weight_decompose(weight + difference, 1.0) - weight
    return difference.detach()


# -- what is done with them --------------------------------------------------------------------------------------------


def distance(path: Path, base: LatentDiffusion, wanted: dict[str, Tensor], weight: float = 1.0) -> float:
    """How far what a file changes is from the maker's word, relative, over all modules."""
    names, known = spellings(base), targets(base)
    reading = read(Artifact.load(path), base, path)
    assert not reading.problems
    found = {n: c.delta(weight_of(base, known[n]).weight).detach() for n, c in reading.changes.items()}
    return apart(found, {names[module]: weight * tensor for module, tensor in wanted.items()})


def used(made: Made, base: LatentDiffusion, family: str, tuner: Callable, folder: Path) -> dict[str, Any]:
    """Run every command on a file; what inspect says of it, and verify."""
    path, wanted = made
    there, both = folder / "there.safetensors", folder / "both.safetensors"
    assert distance(path, base, wanted) < 1e-6
    result = tuner("convert", path, "--to", "diffusers", "--out", there, "--base", base.identity)
    assert result.exit_code == 0, result.stderr
    assert distance(there, base, wanted) < 1e-6
    told = json.loads(tuner("verify", there, "--base", base.identity, "--json").stdout)
    assert told["programs"]["diffusers"]["whole"] and told["programs"]["diffusers"]["landed"] == len(wanted)
    result = tuner("merge", f"{path}:0.5", f"{there}:0.25", "--base", base.identity, "--out", both)
    assert result.exit_code == 0, result.stderr
    assert distance(both, base, wanted, 0.75) < 1e-6
    said = json.loads(tuner("inspect", path, "--json").stdout)
    assert (said["naming"], said["family"]) == ("kohya", family)
    programs = json.loads(tuner("verify", path, "--base", base.identity, "--json").stdout)["programs"]
    return {**said, "whole": [name for name, program in programs.items() if program["whole"]]}


def test_kohyas_own(bases: Callable, tuner: Callable, tmp_path: Path) -> None:
    """Attention and convolutions of their own ranks and alphas, in fp16: nothing is lost of it there and back."""
    base = bases("sd1")
    path, wanted = by_kohya(base, tmp_path)
    said = used((path, wanted), base, "sd1", tuner, tmp_path)
    assert said["kind"] == "LoRA" and said["ranks"].keys() == {"3", "2"} and said["alphas"].keys() == {"2.0", "1.0"}
    assert said["whole"] == ["diffusers", "ComfyUI", "A1111"]
    back = tmp_path / "back.safetensors"
    assert tuner("convert", tmp_path / "there.safetensors", "--to", "kohya", "--out", back).exit_code == 0
    before, after = Artifact.load(path), Artifact.load(back)
    assert before.tensors.keys() == after.tensors.keys() and before.metadata == after.metadata
    for name, tensor in before.tensors.items():
        assert torch.equal(after.tensors[name], tensor) and after.tensors[name].dtype == tensor.dtype


@pytest.mark.parametrize(
    ("family", "name"), [*(("sd1", name) for name in LYCORIS), ("sd2", "loha"), ("sdxl", "lokr with a core")]
)
def test_files_of_lycoris(family: str, name: str, bases: Callable, tuner: Callable, tmp_path: Path) -> None:
    pytest.importorskip("lycoris")
    base = bases(family)
    said = used(by_lycoris(base, family, tmp_path, **LYCORIS[name]), base, family, tuner, tmp_path)
    algorithm = {"locon": "LoRA", "rslora": "LoRA", "scalar": "LoRA", "loha": "LoHa", "lokr": "LoKr", "dora": "DoRA"}
    assert algorithm[name.split()[0]] in said["kind"]
    rows = "dora_wd" in LYCORIS[name] and name != "dora of columns"
    assert ("ComfyUI" in said["whole"]) != rows, "ComfyUI takes lengths of rows in other terms"
