"""Gradient fusion: exact for one adapter and for inputs that do not meet, and the least squares where they do."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.adapters.drawn import adapter, apart, deltas, saved
from tuner.adapters.activations import TEXT, added, columns, key_of, sums
from tuner.adapters.changes import LowRank
from tuner.adapters.fusion import Fusion
from tuner.adapters.ground import Ground
from tuner.adapters.merge import Way, merge
from tuner.adapters.merge_file import of
from tuner.adapters.naming import layer_of, targets, weight_of
from tuner.adapters.places import Place
from tuner.adapters.source import opened
from tuner.adapters.weighted import Weighted
from tuner.models.latent_diffusion import LatentDiffusion

PROMPTS = (["a cat on red", "a sks cat"], ["a dog on blue background", "a teddy bear"])


def fused(
    paths: list[Path], base: str, out: Path, prompts: Sequence[list[str]] = PROMPTS, weights: Sequence[float] = (1, 1),
    retain: Sequence[str] = (),
) -> Fusion:  # fmt: skip
    """Merge by fusion, as the command does."""
    with opened(paths) as sources:
        adapters = [Weighted(source, weight) for source, weight in zip(sources, weights, strict=False)]
        ground = Ground(base, sources)
        fusion = Fusion(adapters, ground, prompts[: len(paths)], 3, retain)
        way = Way("fusion")
        of(merge(adapters, ground, way, apart=fusion), adapters, ground, way, out).save(out)
    return fusion


def test_one_adapter_is_itself(base: LatentDiffusion, tiny_base: str, tmp_path: Path) -> None:
    a = saved(adapter(base, 1), tmp_path / "a.safetensors")
    fusion = fused([a], tiny_base, tmp_path / "out.safetensors")
    assert apart(deltas(tmp_path / "out.safetensors", base), deltas(a, base)) < 1e-6
    assert fusion.apart["fusion"] < 1e-5


class Given(Fusion):
    """A fusion of activations that are given, of a layer of so many inputs."""

    def __init__(self, parts: list[LowRank], given: list[Tensor], key: str, name: str) -> None:
        self._count, self._apart = len(parts), dict.fromkeys(("all", "fusion", "sum", "mean"), 0.0)
        grams = [x.double().T @ x.double() / len(x) for x in given]
        self._sums = {key: sum(grams[1:], grams[0])}
        self._shares = {
            (n, name): part.down.double() @ gram for n, (part, gram) in enumerate(zip(parts, grams, strict=True))
        }
        self._factor = cache(self._factored)


def solved(parts: list[LowRank], given: list[Tensor], base: LatentDiffusion) -> tuple[Tensor, dict[str, float]]:
    target = next(target for target in targets(base).values() if target.path.endswith("attn1.to_q"))
    place = Place(target, tuple((n, target.kohya) for n in range(len(parts))))
    fusion = Given(parts, given, key_of(target), target.name)
    made = fusion(place, parts)
    return sum(
        (part.update() for part in made), torch.zeros(parts[0].up.shape[0], parts[0].down.shape[1])
    ), fusion.apart


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parts_of(out: int, inputs: int, count: int) -> list[LowRank]:
    return [LowRank(drawn(3, inputs, seed=n), drawn(out, 3, seed=10 + n), 2.0) for n in range(count)]


def test_inputs_that_do_not_meet_give_both_exactly(base: LatentDiffusion) -> None:
    basis = torch.linalg.qr(drawn(24, 24))[0]
    given = [drawn(50, 6, seed=1) @ basis[:6], drawn(40, 9, seed=2) @ basis[6:15]]
    parts = parts_of(16, 24, 2)
    found, _ = solved(parts, given, base)
    for part, x in zip(parts, given, strict=True):
        wanted = x @ part.update().T
        assert ((x @ found.T - wanted).norm() / wanted.norm()).item() < 1e-4
    free = drawn(30, 9, seed=3) @ basis[15:]  # what no input has: there the plain sum stands
    wanted = free @ sum(part.update() for part in parts).T
    assert ((free @ found.T - wanted).norm() / wanted.norm()).item() < 1e-4


@pytest.mark.parametrize("count", [2, 3])
def test_inputs_that_meet_give_the_least_squares(count: int, base: LatentDiffusion) -> None:
    """Against numpy's own solver of the stacked system; and nearer than the plain sum and the mean."""
    given = [drawn(60, 24, seed=n) @ torch.diag(drawn(24, seed=n).abs()) for n in range(count)]
    parts = parts_of(16, 24, count)
    found, distance = solved(parts, given, base)
    rows = torch.cat([x.double() / len(x) ** 0.5 for x in given])
    answers = [x.double() @ part.update().double().T / len(x) ** 0.5 for x, part in zip(given, parts, strict=True)]
    wanted = torch.linalg.lstsq(rows, torch.cat(answers)).solution.T
    assert torch.allclose(found.double(), wanted, atol=1e-4 * float(wanted.abs().max()))

    def missed(update: Tensor) -> float:
        own = sum(float(answer.square().sum()) for answer in answers)
        return float((rows @ update.double().T - torch.cat(answers)).square().sum() / own) ** 0.5

    plain = sum((part.update() for part in parts), torch.zeros(16, 24))
    for name, update in (("fusion", found), ("sum", plain), ("mean", plain / count)):
        assert distance[name] == pytest.approx(missed(update), rel=1e-3)
    assert distance["fusion"] < distance["mean"] and distance["fusion"] < distance["sum"]


@torch.no_grad()
def test_prompts_that_are_to_stay_are_changed_less(base: LatentDiffusion, tiny_base: str, tmp_path: Path) -> None:
    """On their own activations the layers answer more as the base's do; even one adapter gives way to them."""
    path = saved(adapter(base, 1), tmp_path / "a.safetensors")
    retain = ["a house in the snow", "a red car"]
    known, moved = targets(base), []
    for name, kept in (("free", []), ("held", retain)):
        out = tmp_path / f"{name}.safetensors"
        fusion = fused([path], tiny_base, out, retain=kept)
        found = deltas(out, base)
        given = sums(base, [known[name] for name in found], retain, 3, lambda: None)
        changed = {n: float((update.flatten(1) @ given[key_of(known[n])] * update.flatten(1)).sum())
                   for n, update in found.items()}  # fmt: skip
        moved.append(sum(changed.values()) ** 0.5)
        assert fusion.apart["fusion"] <= fusion.apart["sum"] + 1e-6
    assert moved[1] < 0.7 * moved[0]


@torch.no_grad()
def test_a_base_keeps_each_adapters_outputs_better_than_the_mean(
    base: LatentDiffusion, tiny_base: str, tmp_path: Path
) -> None:
    """On real activations, U-Net and text encoder: what is told is what the layers would answer."""
    paths = [saved(adapter(base, n), tmp_path / f"{n}.safetensors") for n in (1, 2)]
    out = tmp_path / "out.safetensors"
    fusion = fused(paths, tiny_base, out)
    assert fusion.apart["fusion"] < 0.7 * fusion.apart["mean"] < fusion.apart["sum"]
    own = [deltas(path, base) for path in paths]
    found = deltas(out, base)
    missed, whole = dict.fromkeys(("fusion", "mean"), 0.0), 0.0
    for number, words in enumerate(PROMPTS):
        changes = adapter(base, (1, 2)[number]).changes
        known = targets(base)
        with added(base, changes, known):
            given = sums(base, [known[name] for name in found], words, 3, lambda: None)
        for name in found:
            gram = given[key_of(known[name])]
            mean = (own[0][name] + own[1][name]) / 2
            for way, update in (("fusion", found[name]), ("mean", mean)):
                rows = (update - own[number][name]).flatten(1)
                missed[way] += float((rows @ gram * rows).sum())
            rows = own[number][name].flatten(1)
            whole += float((rows @ gram * rows).sum())
    for way in missed:
        assert fusion.apart[way] == pytest.approx((missed[way] / whole) ** 0.5, rel=1e-3)


def test_weights_and_layers_of_one_adapter_alone(base: LatentDiffusion, tiny_base: str, tmp_path: Path) -> None:
    """At a weight an adapter's own effect is weighed; where the other changes nothing, nothing is its target."""
    a = saved(adapter(base, 1), tmp_path / "a.safetensors")
    b = saved(adapter(base, 2, where=r"unet\..*to_v"), tmp_path / "b.safetensors")
    out = tmp_path / "out.safetensors"
    fused([a], tiny_base, out, weights=(0.5,))
    assert apart(deltas(out, base), {n: 0.5 * t for n, t in deltas(a, base).items()}) < 1e-6
    fusion = fused([a, b], tiny_base, out)
    assert fusion.apart["fusion"] < fusion.apart["sum"]


@torch.no_grad()
def test_sums_are_of_what_the_layers_are_given(base: LatentDiffusion) -> None:
    """Convolutions by patches; what alike layers share; nothing is left behind in the base."""
    for target in targets(base).values():
        layer = weight_of(base, target)
        if isinstance(layer, torch.nn.Conv2d):
            x = drawn(2, layer.in_channels, 6, 6)
            mine = columns(layer, x) @ layer.weight.flatten(1).T
            theirs = torch.nn.functional.conv2d(x, layer.weight, None, layer.stride, layer.padding)
            assert torch.allclose(mine.view(2, -1, layer.out_channels).transpose(1, 2), theirs.flatten(2), atol=1e-4)
    before = {name: id(p) for network in base.networks.values() for name, p in network.named_parameters()}
    found = sums(base, targets(base).values(), ["a cat"], 0, lambda: None)
    told = base.encode_prompts(["a cat"]).hidden[0].double()
    assert torch.allclose(found[TEXT], told.T @ told / len(told), atol=1e-9)
    assert not any(layer_of(base, target)._forward_pre_hooks for target in targets(base).values())
    assert before == {name: id(p) for network in base.networks.values() for name, p in network.named_parameters()}
    keys = {key_of(target) for target in targets(base).values()}
    assert keys - {TEXT} == found.keys() - {TEXT}, "every layer is seen"


def test_the_base_has_its_own_tensors_again(base: LatentDiffusion) -> None:
    lora = adapter(base, 1, kind="full")
    held = {name: weight_of(base, target).weight.data for name, target in lora.targets.items()}
    with pytest.raises(ZeroDivisionError), added(base, lora.changes, lora.targets):
        for name, target in lora.targets.items():
            assert not torch.equal(weight_of(base, target).weight, held[name])
        raise ZeroDivisionError
    for name, target in lora.targets.items():
        assert weight_of(base, target).weight.data_ptr() == held[name].data_ptr()


@pytest.fixture(scope="session")
def sdxl(tiny_family: Callable[[str], str]) -> str:
    return tiny_family("sdxl")


def test_sdxl(sdxl: str, tmp_path: Path) -> None:
    """Two encoders, of which the first one's last layer is idle."""
    base = LatentDiffusion.load(sdxl)
    where = r"unet\..*attn2\.to_[kv]|text_encoder(_2)?\..*(q_proj|fc1|text_projection)"
    paths = [saved(adapter(base, n, where=where), tmp_path / f"{n}.safetensors") for n in (1, 2)]
    fusion = fused(paths, sdxl, tmp_path / "out.safetensors")
    assert fusion.apart["fusion"] < fusion.apart["mean"]
