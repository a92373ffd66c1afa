"""Changes in every form of LyCORIS: read as ComfyUI and A1111 read them, and as an exact LoRA for diffusers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.adapters.restated import a1111, comfyui
from tuner.adapters.apply import apply_adapter
from tuner.adapters.artifact import Artifact
from tuner.adapters.changes import LowRank
from tuner.adapters.dora import Decomposed
from tuner.adapters.lora import Lora
from tuner.adapters.naming import targets, weight_of
from tuner.adapters.reading import read
from tuner.adapters.verify import verify
from tuner.errors import RequestError
from tuner.models.latent_diffusion import LatentDiffusion

LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj"  # (128, 16)
CONV = "lora_unet_down_blocks_1_resnets_0_conv1"  # (32, 16, 3, 3)
NAMES = {
    LINEAR: "unet.down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
    CONV: "unet.down_blocks.1.resnets.0.conv1",
}


def hada(out: int, rank: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"hada_w{n}": size for m in "12" for n, size in ((f"{m}_a", (out, rank)), (f"{m}_b", (rank, inputs)))}


# What LyCORIS holds of a layer: shapes by ending. lora_mid, hada_t and lokr_t2 are Tucker's cores.
FORMS = {
    "lora": (LINEAR, {"lora_up.weight": (128, 3), "lora_down.weight": (3, 16)}),
    "locon": (CONV, {"lora_up.weight": (32, 3, 1, 1), "lora_down.weight": (3, 16, 3, 3)}),
    "locon tucker": (
        CONV, {"lora_up.weight": (32, 3, 1, 1), "lora_mid.weight": (3, 3, 3, 3), "lora_down.weight": (3, 16, 1, 1)}
    ),
    "loha": (LINEAR, hada(128, 3, 16)), "loha of a high rank": (LINEAR, hada(128, 5, 16)),
    "loha convolution": (CONV, hada(32, 2, 144)),
    "loha tucker": (CONV, {
        "hada_w1_a": (2, 32), "hada_w1_b": (2, 16), "hada_t1": (2, 2, 3, 3), "hada_w2_a": (2, 32), "hada_w2_b": (2, 16),
        "hada_t2": (2, 2, 3, 3),
    }),
    "lokr": (LINEAR, {"lokr_w1": (8, 4), "lokr_w2_a": (16, 2), "lokr_w2_b": (2, 4)}),
    "lokr both": (LINEAR, {"lokr_w1_a": (8, 1), "lokr_w1_b": (1, 4), "lokr_w2_a": (16, 2), "lokr_w2_b": (2, 4)}),
    "lokr whole": (LINEAR, {"lokr_w1": (8, 4), "lokr_w2": (16, 4)}),
    "lokr first half": (LINEAR, {"lokr_w1_a": (8, 2), "lokr_w1_b": (2, 4), "lokr_w2": (16, 4)}),
    "lokr convolution": (CONV, {"lokr_w1": (4, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 36)}),
    "lokr whole convolution": (CONV, {"lokr_w1": (4, 4), "lokr_w2": (8, 4, 3, 3)}),
    "lokr tucker": (CONV, {"lokr_w1": (4, 4), "lokr_t2": (2, 2, 3, 3), "lokr_w2_a": (2, 8), "lokr_w2_b": (2, 4)}),
    "full": (CONV, {"diff": (32, 16, 3, 3)}),
}  # fmt: skip


def drawn(form: str, alpha: bool = True, seed: int = 0) -> tuple[str, dict[str, Tensor]]:
    """A module's tensors, by ending, and its name."""
    module, shapes = FORMS[form]
    generator = torch.Generator().manual_seed(seed)
    tensors = {role: 0.3 * torch.randn(shape, generator=generator) for role, shape in shapes.items()}
    return module, {**tensors, **({"alpha": torch.tensor(1.5)} if alpha and form != "full" else {})}


def artifact(module: str, tensors: dict[str, Tensor]) -> Artifact:
    return Artifact({f"{module}.{role}": tensor for role, tensor in tensors.items()})


@pytest.mark.parametrize("alpha", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read_as_other_programs_read_it(form: str, alpha: bool, base: LatentDiffusion) -> None:
    """With alpha, and without: then the scale is 1."""
    module, tensors = drawn(form, alpha)
    reading = read(artifact(module, tensors), base)
    assert not reading.problems
    name = NAMES[module]
    weight = weight_of(base, targets(base)[name]).weight.detach()
    change = reading.changes[name]
    wanted = comfyui(weight, tensors)
    assert torch.allclose(weight + change.delta(weight), wanted, atol=1e-5)
    assert torch.allclose(a1111(weight, tensors), wanted, atol=1e-5)
    flat = change.low_rank(tuple(weight.shape))
    assert torch.allclose(flat.delta(weight), change.delta(weight), atol=1e-5)
    assert flat.rank <= min(weight.shape[0], weight[0].numel())
    written = {
        key.partition(".")[2]: t for key, t in Lora.from_reading(reading, base, FACTS).to_kohya().tensors.items()
    }
    assert torch.allclose(comfyui(weight, written), wanted, atol=1e-5) and ("alpha" in written) == (form != "full")


FACTS = {
    "architecture": "stable-diffusion-v1", "kohya_version": "sd_v1", "prediction_type": "epsilon", "resolution": "32"
}  # fmt: skip


def test_exact_ranks(base: LatentDiffusion) -> None:
    """Khatri-Rao: the square of LoHa's rank; Kronecker: the product of the factors'; never more than the weight's."""
    ranks = {}
    for form in FORMS:
        module, tensors = drawn(form)
        change = read(artifact(module, tensors), base).changes[NAMES[module]]
        ranks[form] = change.low_rank(targets(base)[NAMES[module]].shape).rank
    assert ranks == {
        "lora": 3, "locon": 3, "locon tucker": 3, "loha": 9, "loha of a high rank": 16, "loha convolution": 4,
        "loha tucker": 4, "lokr": 8, "lokr both": 2, "lokr whole": 16, "lokr first half": 8, "lokr convolution": 8,
        "lokr whole convolution": 32, "lokr tucker": 8, "full": 32,
    }  # fmt: skip


def with_scale(form: str, base: LatentDiffusion, columns: bool) -> tuple[str, dict[str, Tensor], Tensor, Tensor]:
    """A form with DoRA's magnitudes; the base's weight, and what LyCORIS makes of it (modules/locon.py)."""
    module, tensors = drawn(form)
    weight = weight_of(base, targets(base)[NAMES[module]]).weight.detach()
    axis = 1 if columns else 0
    changed = comfyui(weight, tensors)
    ones = (1,) * (weight.ndim - 1)
    norms = changed.transpose(0, axis).flatten(1).norm(dim=1).reshape(-1, *ones).transpose(0, axis)
    scale = norms * (1 + 0.3 * torch.rand(norms.shape, generator=torch.Generator().manual_seed(1)))
    return module, {**tensors, "dora_scale": scale}, weight, changed * scale / norms


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("form", ["lora", "locon", "loha convolution", "lokr", "lokr tucker"])
def test_magnitudes_are_read_as_lycoris_means_them(
    form: str, columns: bool, base: LatentDiffusion, tiny_base: str, tmp_path: Path
) -> None:
    """Of columns ComfyUI and A1111 make the same; of rows ComfyUI makes what `verify` says, A1111 another thing."""
    module, tensors, weight, wanted = with_scale(form, base, columns)
    path = tmp_path / "dora.safetensors"
    artifact(module, tensors).save(path)
    change = read(Artifact.load(path), base).changes[NAMES[module]]
    assert torch.allclose(weight + change.delta(weight), wanted, atol=1e-5)
    assert isinstance(change, Decomposed) != columns
    found = verify(path, base)
    assert torch.allclose(comfyui(weight, tensors), wanted, atol=1e-4) == columns == found.landings["ComfyUI"].whole
    assert torch.allclose(a1111(weight, tensors), wanted, atol=1e-4) == columns == found.landings["A1111"].whole
    pipe = LatentDiffusion.load(tiny_base).pipeline()
    apply_adapter(pipe, path, 1.0, "dora")
    layer = pipe.unet.get_submodule(NAMES[module].removeprefix("unet."))
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, *((weight.shape[1], 8, 8) if weight.ndim == 4 else (3, weight.shape[1])), generator=generator)
    with torch.no_grad():
        ours = torch.func.functional_call(layer.base_layer, {"weight": wanted}, (x,))
        assert torch.allclose(layer(x), ours, atol=1e-4)


def test_magnitudes_in_one_module_alone(base: LatentDiffusion, tiny_base: str, tmp_path: Path) -> None:
    """peft wants them in all of a network's modules: the others get those that they have."""
    path = tmp_path / "mixed.safetensors"
    module, tensors, *_ = with_scale("locon", base, columns=False)
    other, plain = drawn("lora")
    both = artifact(module, tensors).tensors | artifact(other, plain).tensors
    Artifact(both, {"ss_v2": "False"}).save(path)
    lora = Lora.from_artifact(Artifact.load(path), base)
    assert [type(change) for change in lora.changes.values()] == [Decomposed, Decomposed]
    weight = weight_of(base, targets(base)[NAMES[other]]).weight.detach()
    assert torch.allclose(weight + lora.changes[NAMES[other]].delta(weight), comfyui(weight, plain), atol=1e-5)
    apply_adapter(LatentDiffusion.load(tiny_base).pipeline(), path, 1.0, "mixed")


def drop(role: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.pop(role)


def cut(role: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({role: tensors[role][:-1]})


@pytest.mark.parametrize(
    ("form", "change", "words"),
    [
        ("loha", drop("hada_w2_b"), "has no `hada_w2_b`"), ("loha tucker", drop("hada_t2"), "has no `hada_t2`"),
        ("loha", cut("hada_w1_a"), "do not fit"), ("loha tucker", cut("hada_t1"), "do not fit"),
        ("lokr", drop("lokr_w1"), "has no `lokr_w1_a`"), ("lokr", cut("lokr_w2_a"), "do not fit"),
        ("lokr whole", cut("lokr_w1"), "do not fit"), ("lokr tucker", cut("lokr_t2"), "do not fit"),
        ("locon tucker", cut("lora_mid.weight"), "do not fit"), ("full", cut("diff"), "do not fit"),
        ("lora", lambda t: t.update({"dora_scale": torch.ones(5, 1)}), "has 5 magnitudes"),
        ("lora", lambda t: t.update({"diff_b": torch.ones(128)}), "changes a bias"),
        ("lora", lambda t: t.update({"alpha": torch.ones(2)}), "alpha that is not one number"),
    ],
)  # fmt: skip
def test_a_form_that_is_not_whole(
    form: str, change: Callable[[dict[str, Tensor]], None], words: str, base: LatentDiffusion, tmp_path: Path
) -> None:
    module, tensors = drawn(form)
    change(tensors)
    path = tmp_path / "broken.safetensors"
    artifact(module, tensors).save(path)
    assert any(words in problem for problem in verify(path, base).landings["ComfyUI"].problems)
    with pytest.raises(RequestError, match="does not fit this base"):
        apply_adapter(base.pipeline(), path, 1.0, "broken")


def test_scales() -> None:
    down, up = torch.ones(4, 2), torch.ones(3, 4)
    assert LowRank(down, up, 8).scale == 2 and LowRank(down, up, 8, rslora=True).scale == 4
    assert LowRank(down, up * 0, 8).empty and LowRank(down, up, 0).empty and not LowRank(down, up, 8).empty
    for rslora in (False, True):
        other = LowRank(down, up, 8).rescaled(3.0, rslora)
        assert other.alpha == 3 and torch.allclose(other.update(), LowRank(down, up, 8).update())
