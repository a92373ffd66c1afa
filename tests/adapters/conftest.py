"""Small adapters on tiny bases, as a training run leaves them: peft's layers in the base, with values that matter."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tuner.adapters.lora import Lora
from tuner.models.latent_diffusion import LatentDiffusion

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]
FACTS = {"trigger_phrase": "sks cat", "seed": "7", "config": '{"rank": 4}'}
VARIANTS = ("lora", "rslora", "dora", "loha", "lokr")


def settings(variant: str, targets: Sequence[str] | str, rank: int = 4, alpha: float = 8, **more: Any) -> Any:
    """peft's settings of a variant."""
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    where = targets if isinstance(targets, str) else list(targets)
    if variant in ("loha", "lokr"):
        return (LoHaConfig if variant == "loha" else LoKrConfig)(r=rank, alpha=alpha, target_modules=where, **more)
    kind = {"use_dora": variant == "dora", "use_rslora": variant == "rslora"}
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=where, **kind, **more)


def fill(base: LatentDiffusion, scale: float = 0.2) -> None:
    """Values for peft's layers that are zero, or tell nothing, before training."""
    generator = torch.Generator().manual_seed(3)
    for network in (base.unet, *base.text_encoders):
        for name, parameter in network.named_parameters():
            if "lora_magnitude_vector" in name:
                parameter.data *= 1 + 0.3 * torch.rand(parameter.shape, generator=generator)
            elif any(word in name for word in ("lora_B", "hada_", "lokr_")):
                parameter.data.normal_(std=scale, generator=generator)


@pytest.fixture(scope="session")
def base(tiny_base: str) -> LatentDiffusion:
    """The tiny base, without adapters: what is tested must leave it so."""
    return LatentDiffusion.load(tiny_base)


@pytest.fixture(scope="session")
def make(tiny_base: str) -> Callable[..., Lora]:
    """Put an adapter's layers into a base of their own, draw their values, and collect them."""
    from peft import inject_adapter_in_model

    def made(
        alpha: float = 8, rank: int = 4, unet: Sequence[str] = ATTENTION, text: Sequence[str] = (), zero: bool = False,
        variant: str = "lora", scale: float = 0.2,
    ) -> Lora:  # fmt: skip
        fresh = LatentDiffusion.load(tiny_base)
        for network, names in ((fresh.unet, unet), (fresh.text_encoder, text)):
            if names:
                inject_adapter_in_model(settings(variant, names, rank, alpha), network)
        if not zero:
            fill(fresh, scale)
        return Lora.from_model(fresh, metadata=FACTS)

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
