"""`tuner inspect`: what a file is, from its header alone; with --deep from its tensors."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tuner.adapters.artifact import Artifact

UNET = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
SDXL = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
HEADER = {
    "ss_base_model_version": "sd_v1", "ss_v2": "False", "modelspec.trigger_phrase": "sks cat", "tuner.base": "emoji",
    "tuner.config": '{"rank": 4, "steps": 100}', "sshs_model_hash": "ab" * 32,
}  # fmt: skip


def lora(module: str = UNET, width: int = 768, rank: int = 4, alpha: float | None = 2.0) -> dict[str, torch.Tensor]:
    tensors = {f"{module}.lora_down.weight": torch.ones(rank, width), f"{module}.lora_up.weight": torch.ones(320, rank)}
    return {**tensors, **({} if alpha is None else {f"{module}.alpha": torch.tensor(alpha)})}


def text(module: str) -> dict[str, torch.Tensor]:
    return lora(f"{module}_text_model_encoder_layers_0_self_attn_q_proj")


KINDS = {
    "lora": (lora() | text("lora_te"), HEADER, {
        "kind": "LoRA", "naming": "kohya", "family": "sd1", "base": "emoji", "ranks": {"4": 2}, "alphas": {"2.0": 2},
        "networks": {"U-Net": 1, "text encoder": 1}, "trigger": "sks cat", "warnings": [], "without_alpha": 0,
    }),
    "sd2": (lora(width=1024), {"ss_v2": "True"}, {"family": "sd2", "warnings": []}),
    "sdxl": (lora(SDXL, 2048) | text("lora_te1") | text("lora_te2"), {"format": "pt"}, {
        "family": "sdxl", "networks": {"U-Net": 1, "first text encoder": 1, "second text encoder": 1},
        "warnings": ["A1111 takes it for SD 1.x and hides its card: `ss_base_model_version` does not say SDXL."],
    }),
    "of two minds": (lora(width=2048), {"ss_base_model_version": "sd_v1", "ss_v2": "False"}, {
        "warnings": [
            "The header says Stable Diffusion 1.x, the tensors are those of Stable Diffusion XL.",
            "A1111 takes it for SD 1.x and hides its card: `ss_base_model_version` does not say SDXL.",
        ],
    }),
    "no alpha": (lora(alpha=None), HEADER, {
        "without_alpha": 1, "warnings": ["It has no alpha: its scale is taken for 1."],
    }),
    "half": ({n: t.bfloat16() for n, t in lora().items()}, HEADER, {
        "alphas": {"2.0": 1}, "precisions": {"bf16": 4352},
    }),
    "dora": (lora() | {f"{UNET}.dora_scale": torch.ones(320, 1)}, HEADER, {"kind": "DoRA"}),
    "loha": ({f"{UNET}.hada_w{n}": torch.ones(4, 4) for n in ("1_a", "1_b", "2_a", "2_b")}, HEADER, {"kind": "LoHa"}),
    "lokr": ({f"{UNET}.lokr_w1": torch.ones(2, 2), f"{UNET}.lokr_w2": torch.ones(2, 2)}, HEADER, {"kind": "LoKr"}),
    "diffusers": ({"unet.conv_in.lora_A.weight": torch.ones(2, 4), "unet.conv_in.lora_B.weight": torch.ones(8, 2)}, {
        "lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 3}',
        "modelspec.architecture": "stable-diffusion-v1/x",
    }, {"naming": "diffusers", "family": "sd1", "alphas": {"3.0": 1}, "warnings": []}),
    "flux": ({"transformer.x.lora_A.weight": torch.ones(2, 4), "transformer.x.lora_B.weight": torch.ones(8, 2)}, {}, {
        "family": "", "networks": {"transformer": 1},
    }),
    "token": ({"<sks>": torch.ones(2, 768)}, {}, {"kind": "textual inversion", "family": "sd1"}),
    "token of sdxl": ({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, {}, {
        "kind": "textual inversion", "family": "sdxl",
    }),
    "controlnet": ({
        f"{n}.weight": torch.ones(1) for n in ("controlnet_cond_embedding.conv_in", "conv_in", "mid_block.x")
    }, {}, {"kind": "ControlNet"}),
    "checkpoint": ({f"{n}.weight": torch.ones(1) for n in (
        "model.diffusion_model.out.2", "first_stage_model.x", "cond_stage_model.model.ln_final")}, {}, {
        "kind": "checkpoint", "family": "sd2",
    }),
    "something": ({f"layer{n}.weight": torch.ones(1, 1, 1) for n in range(3)}, {}, {
        "kind": "tensors of no known kind",
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_told_by_its_header(name: str, tuner: Callable, tmp_path: Path) -> None:
    tensors, header, wanted = KINDS[name]
    path = tmp_path / "cat.safetensors"
    Artifact(tensors, header).save(path)
    result = tuner("inspect", path, "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 0 and {key: told[key] for key in wanted} == wanted
    assert told["tensors"] == len(tensors) and told["size"] == path.stat().st_size and told["metadata"] == header


def test_the_page_says_it_in_80_columns(tuner: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "cat.safetensors"
    Artifact(lora() | text("lora_te"), {**HEADER, "note": "\x1b[31mred\x07" + "x" * 500}).save(path)
    page = tuner("inspect", path).stdout
    assert all(len(line) <= 80 for line in page.splitlines()) and "\x1b" not in page and "\x07" not in page
    for words in ("LoRA for Stable Diffusion 1.x, in kohya's naming", "text encoder 1, U-Net 1", "sks cat", "emoji",
                  "fp32", "rank 4, steps 100", "?[31mred?xxx"):  # fmt: skip
        assert words in page
    assert "abab" not in page, "hashes are for --json"


def test_deep_reads_the_tensors(tuner: Callable, tmp_path: Path) -> None:
    path = tmp_path / "cat.safetensors"
    tensors = lora() | lora("lora_unet_up_blocks_1_resnets_0_conv1", 9, alpha=4.0) | text("lora_te")
    tensors["lora_unet_mid_block_x.lora_up.weight"] = torch.zeros(3, 2)
    tensors["lora_unet_mid_block_x.lora_down.weight"] = torch.ones(2, 3)
    tensors["lora_unet_conv_in.lora_up.weight"] = torch.full((3, 2), float("nan"))
    tensors["lora_unet_conv_in.lora_down.weight"] = torch.ones(2, 3)
    Artifact(tensors, HEADER).save(path)
    deep = json.loads(tuner("inspect", path, "--deep", "--json").stdout)["deep"]
    assert list(deep["norms"]) == ["down_blocks 0", "mid_block", "up_blocks 1", "text encoder"]
    wanted = (0.5 * 4 * torch.ones(320, 768)).norm().item()  # alpha / rank, and a product of ones over the rank
    assert deep["norms"]["down_blocks 0"] == {"norm": pytest.approx(wanted, rel=1e-5), "modules": 1}
    assert deep["zero"] == ["lora_unet_mid_block_x"] and deep["broken"] == ["lora_unet_conv_in.lora_up.weight"]
    page = tuner("inspect", path, "--deep").stdout
    assert "█" in page and "1 change nothing" in page and "1 hold values that are not finite" in page


def test_deep_of_other_files(tuner: Callable, tmp_path: Path) -> None:
    path = tmp_path / "unet.safetensors"
    Artifact({"down_blocks.0.x": torch.ones(4), "conv_in.weight": torch.zeros(2)}).save(path)
    assert json.loads(tuner("inspect", path, "--deep", "--json").stdout)["deep"]["norms"]["down_blocks.0"]["norm"] == 2
    assert "How large the values" in tuner("inspect", path, "--deep").stdout


def test_what_cannot_be_read(tuner: Callable, tmp_path: Path) -> None:
    for words, wanted in [
        ((tmp_path / "no.safetensors",), "no such file"), ((tmp_path,), "is a folder"),
        ((), "takes one file, not none"), (("a", "b"), "takes one file, not 2"), ((__file__,), "is not a whole"),
    ]:  # fmt: skip
        result = tuner("inspect", *words)
        assert result.exit_code == 2 and wanted in result.stderr and len(result.stderr.splitlines()) == 1
        assert not result.stdout


def read_so_far() -> int:
    """Bytes that this process has read by system calls."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count what is read")
def test_of_a_file_of_2_gb_the_header_alone_is_read(tuner: Callable, tmp_path: Path) -> None:
    """And the bytes of its alphas. The file is a hole behind a true header."""
    header, end = {"__metadata__": HEADER}, 0
    for number in range(500):
        module = f"lora_unet_down_blocks_0_attentions_{number}_proj_in"
        for role, shape in (("alpha", []), ("lora_down.weight", [256, 2048]), ("lora_up.weight", [2048, 256])):
            begin, end = end, end + 4 * math.prod(shape)
            header[f"{module}.{role}"] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text, path = json.dumps(header).encode(), tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    assert path.stat().st_size > 2e9
    assert tuner("inspect", path).exit_code == 0, "all that it imports is there now"
    before = read_so_far()
    told = json.loads(tuner("inspect", path, "--json").stdout)
    assert told["ranks"] == {"256": 500} and told["size"] == path.stat().st_size
    assert read_so_far() - before < len(text) + 2**15


def test_headers_are_read_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "cat.safetensors"
    Artifact(lora(), HEADER).save(path)
    code = (
        "import sys\nfrom tuner.commands import app\n"
        f"try:\n    app(['inspect', {str(path)!r}])\nexcept SystemExit as end:\n    assert not end.code\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
