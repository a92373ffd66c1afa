"""Names: every layer has one in kohya's files, and real Stable Diffusion's are the ones that everybody knows."""

import json
import re
import types
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import nn

from tuner.adapters.loaders import a1111_map, comfyui_map, joined_attentions
from tuner.adapters.naming import diffusers_map, kohya_map, spellings, targets
from tuner.adapters.sgm import block_names, original_name, original_names
from tuner.models.checkpoint import CONFIGS
from tuner.models.family import FAMILIES
from tuner.models.latent_diffusion import LatentDiffusion

FULL = tuple(FAMILIES)
TO_Q = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@cache
def full_size(family: str) -> types.SimpleNamespace:
    """A published model's networks by their configurations, without weights."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folder = CONFIGS / family

    def config(part: str) -> dict:
        return json.loads((folder / part / "config.json").read_text())

    with torch.device("meta"):
        parts = {"unet": UNet2DConditionModel.from_config(config("unet"))}
        for name in FAMILIES[family].encoders:
            kind = CLIPTextModel if name == "text_encoder" else CLIPTextModelWithProjection
            parts[name] = kind(CLIPTextConfig(**config(name)))
    return types.SimpleNamespace(**parts)


def test_every_layer_has_one_kohya_name(base: LatentDiffusion) -> None:
    names = kohya_map(base)
    modules = [*base.unet.modules(), *base.text_encoder.modules()]
    layers = [module for module in modules if isinstance(module, nn.Linear | nn.Conv2d)]
    assert len(names) == len(set(names.values())) == len(layers)
    assert names[f"lora_unet_{TO_Q}"] == "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    assert names["lora_te_text_model_encoder_layers_0_self_attn_q_proj"].endswith("encoder.layers.0.self_attn.q_proj")


def test_names_hold_while_peft_has_wrapped_the_layers(tiny_family: Callable[[str], str]) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    wrapped = LatentDiffusion.load(tiny_family("sdxl"))
    before = targets(wrapped)
    inject_adapter_in_model(LoraConfig(target_modules=["to_q", "proj_in", "conv1"]), wrapped.unet)
    assert targets(wrapped) == before == targets(wrapped.pipeline())


@pytest.mark.parametrize(
    ("family", "unet", "text"),
    [("sd1", 192, {"lora_te": 72}), ("sd2", 192, {"lora_te": 138}), ("sdxl", 722, {"lora_te1": 72, "lora_te2": 192})],
)
def test_the_counts_are_those_of_kohya(family: str, unet: int, text: dict[str, int]) -> None:
    """sd-scripts reports so many modules of the U-Net's transformers (722 for SDXL) and of the encoders' layers."""
    found = targets(full_size(family))
    names = kohya_map(full_size(family))
    assert sum(target.part.attribute == "unet" and ".attentions." in target.path for target in found.values()) == unet
    for prefix, count in text.items():
        assert sum(re.match(rf"{prefix}_text_model_encoder_layers_", name) is not None for name in names) == count


# Names in files that people have: sd-scripts' of SD 1.x and 2.x go by diffusers' blocks, those of SDXL by the original
KNOWN = {
    "sd1": {
        f"lora_unet_{TO_Q}": (320, 320), "lora_unet_mid_block_attentions_0_proj_in": (1280, 1280, 1, 1),
        "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj": (2560, 320),
        "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_out_0": (1280, 1280),
        "lora_unet_down_blocks_0_downsamplers_0_conv": (320, 320, 3, 3),
        "lora_unet_time_embedding_linear_1": (1280, 320),
        "lora_te_text_model_encoder_layers_11_mlp_fc1": (3072, 768),
        "lora_te_text_model_encoder_layers_0_self_attn_out_proj": (768, 768),
    },
    "sd2": {
        "lora_unet_down_blocks_0_attentions_0_proj_in": (320, 320),
        "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_k": (320, 1024),
        "lora_te_text_model_encoder_layers_22_mlp_fc2": (1024, 4096),
    },
    "sdxl": {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": (640, 640),
        "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_k": (1280, 2048),
        "lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj": (10240, 1280),
        "lora_unet_output_blocks_0_1_proj_in": (1280, 1280),
        "lora_unet_output_blocks_5_1_transformer_blocks_1_attn1_to_out_0": (640, 640),
        "lora_unet_input_blocks_3_0_op": (320, 320, 3, 3), "lora_unet_output_blocks_2_2_conv": (1280, 1280, 3, 3),
        "lora_unet_output_blocks_0_0_skip_connection": (1280, 2560, 1, 1),
        "lora_unet_input_blocks_1_0_in_layers_2": (320, 320, 3, 3),
        "lora_unet_input_blocks_1_0_out_layers_3": (320, 320, 3, 3),
        "lora_unet_input_blocks_1_0_emb_layers_1": (320, 1280), "lora_unet_input_blocks_0_0": (320, 4, 3, 3),
        "lora_unet_time_embed_0": (1280, 320), "lora_unet_time_embed_2": (1280, 1280),
        "lora_unet_label_emb_0_0": (1280, 2816), "lora_unet_label_emb_0_2": (1280, 1280),
        "lora_unet_out_2": (4, 320, 3, 3), "lora_te1_text_model_encoder_layers_11_mlp_fc1": (3072, 768),
        "lora_te2_text_model_encoder_layers_31_self_attn_q_proj": (1280, 1280),
    },
}  # fmt: skip


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in KNOWN for name in KNOWN[family]])
def test_well_known_names(family: str, name: str) -> None:
    model = full_size(family)
    assert targets(model)[kohya_map(model)[name]].shape == KNOWN[family][name]


@pytest.mark.parametrize("family", FULL)
def test_programs_match_every_name_that_we_write(family: str) -> None:
    """But one: the projection behind SDXL's second encoder, which A1111 and kohya's scripts leave alone."""
    names = kohya_map(full_size(family))
    beside = {"lora_te2_text_projection"} if family == "sdxl" else set()
    assert names.keys() - a1111_map(full_size(family)).keys() == beside
    assert names.keys() <= comfyui_map(full_size(family)).keys() == spellings(full_size(family)).keys()
    for matched in (a1111_map, comfyui_map):
        assert all(names.get(name, target) == target for name, target in matched(full_size(family)).items())


def test_a1111_misses_some_of_diffusers_names_in_sdxl() -> None:
    """Its formula counts no attention in the first level up, and knows no embedding of sizes."""
    model = full_size("sdxl")
    by_path = {target.by_path for target in targets(model).values() if target.part.attribute == "unet"}
    missed = {"up_blocks_0_upsamplers_0_conv", "add_embedding_linear_1", "add_embedding_linear_2"}
    assert by_path - a1111_map(model).keys() == {f"lora_unet_{name}" for name in missed}


def test_attentions_of_openclip_are_one_matrix() -> None:
    counts = {family: len(set(joined_attentions(full_size(family)).values())) for family in FULL}
    assert counts == {"sd1": 0, "sd2": 23, "sdxl": 32}


@pytest.mark.parametrize("family", FULL)
def test_diffusers_own_conversion_takes_our_original_names_back(family: str) -> None:
    """Every tensor of the U-Net, through diffusers' reader of original checkpoints."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    unet = full_size(family).unet
    names, states = original_names(unet), unet.state_dict()
    moved = {}
    for key, tensor in states.items():
        path, _, leaf = key.rpartition(".")
        moved[f"model.diffusion_model.{names[path]}.{leaf}"] = tensor
    assert len(moved) == len(states)
    back = convert_ldm_unet_checkpoint(moved, dict(unet.config))
    assert back.keys() == states.keys() and all(back[key].shape == states[key].shape for key in states)


def test_original_names_are_read_from_any_unet(base: LatentDiffusion) -> None:
    """The tiny base has one residual block a level and attention in the first level alone."""
    assert original_name(base.unet, "down_blocks.0.attentions.0.proj_in") == "input_blocks.1.1.proj_in"
    assert original_name(base.unet, "down_blocks.0.downsamplers.0.conv") == "input_blocks.2.0.op"
    assert original_name(base.unet, "up_blocks.0.upsamplers.0.conv") == "output_blocks.1.1.conv"
    assert block_names(base.unet)["mid_block.resnets.1"] == "middle_block.2"
    for path in ("down_blocks.7.resnets.0.conv1", "down_blocks.0.resnets.0.nonlinearity", "nothing"):
        with pytest.raises(KeyError):
            original_name(base.unet, path)


def test_both_spellings_of_the_text_encoder_are_read(base: LatentDiffusion) -> None:
    names = diffusers_map(base)
    path = "encoder.layers.1.mlp.fc2"
    assert names[f"text_encoder.text_model.{path}"] == names[f"text_encoder.{path}"] == f"text_encoder.{path}"
