"""Small LoRAs on the tiny base, as a training run leaves them: peft's layers in the base, with values that matter."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from tuner.adapters.lora import Lora
from tuner.models.latent_diffusion import LatentDiffusion

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]
FACTS = {"trigger_phrase": "sks cat", "seed": "7", "config": '{"rank": 4}'}


@pytest.fixture(scope="session")
def base(tiny_base: str) -> LatentDiffusion:
    """The tiny base, without adapters: what is tested must leave it so."""
    return LatentDiffusion.load(tiny_base)


@pytest.fixture(scope="session")
def make(tiny_base: str) -> Callable[..., Lora]:
    """Put LoRA layers into a base of their own, draw their values, and collect them."""
    from peft import LoraConfig, inject_adapter_in_model

    def made(
        alpha: float = 8, rank: int = 4, unet: Sequence[str] = ATTENTION, text: Sequence[str] = (), zero: bool = False,
        rslora: bool = False, scale: float = 0.2,
    ) -> Lora:  # fmt: skip
        fresh = LatentDiffusion.load(tiny_base)
        for network, names in ((fresh.unet, unet), (fresh.text_encoder, text)):
            if names:
                config = LoraConfig(r=rank, lora_alpha=alpha, use_rslora=rslora, target_modules=list(names))
                inject_adapter_in_model(config, network)
        generator = torch.Generator().manual_seed(3)
        for network in (fresh.unet, fresh.text_encoder):
            for name, parameter in network.named_parameters():
                if "lora_B" in name and not zero:
                    parameter.data.normal_(std=scale, generator=generator)
        return Lora.from_model(fresh, alpha, rank, rslora, FACTS)

    return made


@pytest.fixture(scope="session")
def plain(make: Callable[..., Lora]) -> Lora:
    """alpha is twice the rank: a loader that loses alpha shows."""
    return make()


@pytest.fixture(scope="session")
def with_text(make: Callable[..., Lora]) -> Lora:
    return make(text=TEXT)


@pytest.fixture
def files(plain: Lora, tmp_path: Path) -> list[Path]:
    return plain.write(tmp_path, "cat", torch.float32)
