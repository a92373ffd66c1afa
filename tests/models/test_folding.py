"""LoRA layers that fold: the same as peft's, forward and backward, where it is less work."""

from collections.abc import Iterator

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners import lora
from torch import nn

from tuner.models.folding import FoldsConv2d, FoldsLinear, fold, folding
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.models.layers import add_lora, paths_of
from tuner.models.shifts import unadapted

LAYERS = {
    "linear": (lambda: nn.Linear(8, 12), (64, 8)),
    "kernel": (lambda: nn.Conv2d(8, 12, 3, stride=2, padding=1), (4, 8, 16, 16)),
    "innermost": (lambda: nn.Conv2d(8, 12, 3, padding=1).to(memory_format=torch.channels_last), (4, 8, 8, 8)),
    "pointwise": (lambda: nn.Conv2d(8, 12, 1, bias=False), (4, 8, 8, 8)),
}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def adapted(layer: nn.Module, rank: int = 6, seed: int = 0, **options) -> nn.Module:
    """A network of one layer with a LoRA that has learned something."""
    network = nn.Sequential(layer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["0"], **options), network)
        nn.init.normal_(network[0].lora_B["default"].weight)
    return network


def learned(network: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What comes out, and all gradients."""
    x = x.clone().requires_grad_()
    out = network(x)
    out.square().sum().backward()
    own = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"out": out.detach(), "x": x.grad, **own}


@pytest.mark.parametrize("kind", LAYERS)
def test_output_and_gradients_are_pefts(kind):
    make, shape = LAYERS[kind]
    network, x = adapted(make()), torch.randn(shape)
    wanted = learned(network, x)
    network.zero_grad()
    fold(network)
    assert isinstance(network[0], FoldsLinear | FoldsConv2d)
    assert not apart(network, x)
    network.zero_grad()
    found = learned(network, x)
    assert found.keys() == wanted.keys() and len(found) == 4
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-4 * value.abs().max()), name
    with unadapted(network), torch.no_grad():
        assert torch.equal(network(x), network[0].base_layer(x))


def apart(network: nn.Module, x: torch.Tensor) -> bool:
    """Whether something goes through A and B."""
    calls = []
    hook = network[0].lora_A["default"].register_forward_hook(lambda *_: calls.append(1))
    network(x)
    hook.remove()
    return bool(calls)


@pytest.mark.parametrize(
    ("rank", "places", "gradients", "expected"),
    [(4, 4096, True, True), (32, 8, True, True), (32, 4096, True, False), (12, 64, True, True), (12, 64, False, False)],
)
def test_it_stays_apart_where_that_is_less_work(rank, places, gradients, expected):
    """Few places, or a narrow rank; without gradients, that of the weight is not to be paid for."""
    network = adapted(nn.Linear(64, 64), rank)
    fold(network)
    with torch.set_grad_enabled(gradients):
        assert apart(network, torch.randn(places, 64)) == expected


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True}])
def test_what_is_more_than_two_matrices_is_left_to_peft(options):
    network = adapted(nn.Linear(8, 8), **options)
    fold(network)
    assert type(network[0]) is lora.Linear


@pytest.mark.parametrize("options", [{"padding_mode": "circular"}, {"dilation": 2}, {"groups": 2}])
def test_unusual_convolutions_are_left_to_peft(options):
    network = adapted(nn.Conv2d(8, 12, 3, padding=1, **options))
    fold(network)
    assert type(network[0]) is lora.Conv2d


def test_of_two_adapters_both_count():
    network, x = adapted(nn.Linear(8, 8)), torch.randn(64, 8)
    fold(network)
    network[0].update_layer("second", r=4, lora_alpha=4, config=LoraConfig(r=4, init_lora_weights=False))
    network[0].set_adapter(["default", "second"])
    both = network[0].base_layer.weight + sum(network[0].get_delta_weight(name) for name in ("default", "second"))
    assert torch.allclose(network(x), nn.functional.linear(x, both, network[0].base_layer.bias), atol=1e-5)


@pytest.mark.parametrize(("grid", "whole"), [(torch.float32, True), (torch.float16, True), (torch.bfloat16, False)])
def test_in_half_precision_a_small_update_is_kept_as_well_as_by_peft_or_better(grid, whole):
    """An update of a thousandth of the weight comes out whole; added to what has been rounded, half of it is lost.

    Weights from a file in bfloat16 lose as much either way.
    """
    network, x = adapted(nn.Linear(256, 256), 64), torch.randn(4096, 256)
    layer = network[0]
    with torch.no_grad():
        layer.base_layer.weight.copy_(layer.base_layer.weight.to(grid))
        update = layer.get_delta_weight("default")
        layer.lora_B["default"].weight.mul_(1e-3 * layer.base_layer.weight.norm() / update.norm())
        wanted = nn.functional.linear(x, layer.get_delta_weight("default"))

    def kept() -> float:
        """How much of the update comes out, beside all of it."""
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            moved = network(x).float()
            with unadapted(network):
                moved -= network(x).float()
        return float((moved * wanted).sum() / wanted.square().sum())

    pefts = kept()
    fold(network)
    assert not apart(network, x)
    assert kept() == pytest.approx(1 if whole else pefts, abs=0.15) and pefts == pytest.approx(0.5, abs=0.1)
    layer.base_layer.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert apart(network, x)  # a weight in half precision would swallow it


def test_gradients_in_half_precision_are_as_near_as_pefts():
    network, x = adapted(nn.Conv2d(8, 12, 3, padding=1)), torch.randn(4, 8, 8, 8)
    wanted = learned(network, x)
    found = []
    for _ in range(2):  # apart, and folded
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            its = learned(network, x)
        found.append([float((its[name] - value).norm() / value.norm()) for name, value in wanted.items()])
        fold(network)
    assert all(mine < 1.5 * pefts < 0.05 for pefts, mine in zip(*found, strict=True))


def test_what_folds_is_held_whole(tiny_base):
    model = LatentDiffusion.load(tiny_base).to("cpu")
    add_lora(model.unet, paths_of(["attention"]), 64, 0)
    held = folding(model.unet)
    model.hold_frozen(torch.bfloat16)
    assert held and {weight.dtype for weight in held} == {torch.float32}
    frozen = {p for p in model.unet.parameters() if not p.requires_grad}
    assert {p.dtype for p in frozen - held} == {torch.bfloat16}
