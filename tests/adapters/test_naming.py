"""Names: every layer has one in kohya's files, and real Stable Diffusion's are the ones that everybody knows."""

import types

import pytest
import torch
from torch import nn

from tuner.adapters.naming import a1111_map, comfyui_map, diffusers_map, kohya_map, targets
from tuner.models.latent_diffusion import LatentDiffusion

TO_Q = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def sd15() -> types.SimpleNamespace:
    """Stable Diffusion 1.5's networks by its published configuration, without weights."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, cross_attention_dim=768,
            attention_head_dim=8,
        )  # fmt: skip
        text = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                                            num_attention_heads=12, projection_dim=768))  # fmt: skip
    return types.SimpleNamespace(unet=unet, text_encoder=text)


def test_every_layer_has_one_kohya_name(base: LatentDiffusion) -> None:
    names = kohya_map(base)
    modules = [*base.unet.modules(), *base.text_encoder.modules()]
    layers = [module for module in modules if isinstance(module, nn.Linear | nn.Conv2d)]
    assert len(names) == len(set(names.values())) == len(layers)
    assert names[f"lora_unet_{TO_Q}"] == "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    assert names["lora_te_text_model_encoder_layers_0_self_attn_q_proj"].endswith("encoder.layers.0.self_attn.q_proj")


def test_names_hold_while_peft_has_wrapped_the_layers(tiny_base: str, base: LatentDiffusion) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    wrapped = LatentDiffusion.load(tiny_base)
    inject_adapter_in_model(LoraConfig(target_modules=["to_q", "proj_in"]), wrapped.unet)
    assert targets(wrapped) == targets(base)


def test_stable_diffusion_has_the_counts_of_kohya(sd15: types.SimpleNamespace) -> None:
    """sd-scripts reports 192 modules of the U-Net's transformers and 72 of the text encoder for SD 1.x."""
    names = kohya_map(sd15)
    assert sum("_attentions_" in name for name in names) == 192
    assert sum(name.startswith("lora_te_") for name in names) == 72


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (f"lora_unet_{TO_Q}", (320, 320)),
        ("lora_unet_mid_block_attentions_0_proj_in", (1280, 1280, 1, 1)),
        ("lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj", (2560, 320)),
        ("lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_out_0", (1280, 1280)),
        ("lora_unet_down_blocks_0_downsamplers_0_conv", (320, 320, 3, 3)),
        ("lora_unet_time_embedding_linear_1", (1280, 320)),
        ("lora_te_text_model_encoder_layers_11_mlp_fc1", (3072, 768)),
        ("lora_te_text_model_encoder_layers_0_self_attn_out_proj", (768, 768)),
    ],
)
def test_well_known_names_of_stable_diffusion(sd15: types.SimpleNamespace, name: str, shape: tuple[int, ...]) -> None:
    assert targets(sd15)[kohya_map(sd15)[name]].shape == shape


def test_comfyui_and_a1111_match_all_of_stable_diffusion(sd15: types.SimpleNamespace) -> None:
    assert comfyui_map(sd15) == a1111_map(sd15) == kohya_map(sd15)


def test_a1111_misses_an_upsampler_behind_attention_in_the_first_level_up() -> None:
    """So it is for SDXL: its formula counts no attention there."""
    from tuner.models.architecture import Sizes, create

    deep = create(Sizes(unet=(8, 16), attention=(False, True), heads=2, text_width=16, text_length=8), ["cat"])
    assert kohya_map(deep).keys() - a1111_map(deep).keys() == {"lora_unet_up_blocks_0_upsamplers_0_conv"}
    assert comfyui_map(deep) == kohya_map(deep)


def test_both_spellings_of_the_text_encoder_are_read(base: LatentDiffusion) -> None:
    names = diffusers_map(base)
    path = "encoder.layers.1.mlp.fc2"
    assert names[f"text_encoder.text_model.{path}"] == names[f"text_encoder.{path}"] == f"text_encoder.{path}"
