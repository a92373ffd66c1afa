"""Every variant on every family: what peft trained is what the files say, in every program that they are for."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.adapters.conftest import FACTS, VARIANTS, fill, settings
from tests.adapters.restated import a1111, a1111_family, comfyui
from tuner.adapters.apply import apply_adapter
from tuner.adapters.artifact import Artifact
from tuner.adapters.collect import weight_in
from tuner.adapters.lora import Lora
from tuner.adapters.naming import kohya_map, layer_of, weight_of
from tuner.adapters.proof import prove
from tuner.adapters.verify import verify
from tuner.errors import RequestError
from tuner.models.latent_diffusion import LatentDiffusion

FAMILIES = ("sd1", "sd2", "sdxl")
# One place of each kind of layer: attention, feed-forward, projections, convolutions of both sizes, resampling
UNET = r"down_blocks\.1\.(attentions\.0\..*(to_q|to_k|to_v|to_out\.0|net\.0\.proj|net\.2|proj_in)|resnets\.0\.conv.*)"
UNET += r"|mid_block\.resnets\.1\.time_emb_proj|down_blocks\.0\.downsamplers\.0\.conv|up_blocks\.0\.upsamplers\.0\.conv"
TEXT = r".*layers\.0\.(self_attn\.(q|k|v|out)_proj|mlp\.fc1)"


@pytest.fixture(scope="session")
def bases(tiny_family: Callable[[str], str]) -> Callable[[str], LatentDiffusion]:
    """A family's tiny base, without adapters: what is tested must leave it so."""
    return cache(lambda family: LatentDiffusion.load(tiny_family(family)))


@pytest.fixture(scope="session")
def trained(
    tiny_family: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], SimpleNamespace]:
    """A family's base with a variant's layers in it, as after training, and the files written from it."""
    from peft import inject_adapter_in_model

    @cache
    def made(family: str, variant: str) -> SimpleNamespace:
        live = LatentDiffusion.load(tiny_family(family))
        for name in ("unet", *live.family.encoders):
            where = UNET if name == "unet" else TEXT
            inject_adapter_in_model(settings(variant, where, rank=2, alpha=3), getattr(live, name))
        fill(live)
        lora = Lora.from_model(live, metadata=FACTS)
        folder = tmp_path_factory.mktemp(f"{family}-{variant}")
        return SimpleNamespace(live=live, lora=lora, files=lora.write(folder, "cat", torch.float32))

    return made


def draw(base: LatentDiffusion, pipe: object = None) -> Tensor:
    pipe = pipe or base.pipeline()
    return pipe("a cat", height=32, width=32, num_inference_steps=2, guidance_scale=1.0, output_type="latent",
                generator=torch.Generator().manual_seed(1)).images  # fmt: skip


@pytest.fixture(params=[(family, variant) for family in FAMILIES for variant in VARIANTS], ids=lambda p: "-".join(p))
def case(request: pytest.FixtureRequest, trained: Callable, bases: Callable) -> SimpleNamespace:
    family, variant = request.param
    return SimpleNamespace(family=family, variant=variant, base=bases(family), **vars(trained(family, variant)))


@torch.no_grad()
def test_a_change_is_what_the_live_layer_does(case: SimpleNamespace) -> None:
    """The weight changed by `delta` against peft's own layer, on random inputs."""
    generator = torch.Generator().manual_seed(5)
    for name, change in case.lora.changes.items():
        target = case.lora.targets[name]
        live, bare = layer_of(case.live, target), weight_of(case.live, target)
        size = (target.shape[1], 8, 8) if len(target.shape) == 4 else (3, target.shape[1])
        x = torch.randn(2, *size, generator=generator)
        weight = bare.weight + change.delta(bare.weight)
        ours = torch.func.functional_call(bare, {"weight": weight}, (x,))
        assert torch.allclose(ours, live(x), atol=1e-5 * max(1.0, live(x).abs().max().item())), name


def test_the_files_are_proved(case: SimpleNamespace) -> None:
    sentences = case.lora.prove(case.files, case.base)
    count = len(case.lora.changes)
    assert count == 17 + 5 * len(case.live.family.encoders)
    matrices = 3 if case.variant == "dora" else 2
    assert f"{matrices * count} of {matrices * count} tensors land in diffusers (diffusers names)" in sentences
    others = "ComfyUI" if case.variant == "dora" else "ComfyUI and A1111"
    assert f"{count} of {count} modules land in {others} (kohya names)" in sentences
    assert any("A1111 divides" in sentence for sentence in sentences) == (case.variant == "dora")
    assert sentences[-2:] == ["both namings give the same picture", "unloading restores the base exactly"]


def test_the_trained_model_draws_what_the_files_draw(case: SimpleNamespace) -> None:
    wanted, bare = draw(case.live), draw(case.base)
    assert not torch.allclose(wanted, bare, atol=1e-2)
    pipe = case.base.pipeline()
    apply_adapter(pipe, case.files[0], 1.0, "cat")
    assert torch.allclose(draw(case.base, pipe), wanted, atol=1e-4)
    pipe.unload_lora_weights()
    pipe.load_lora_weights(str(case.files[1].parent))  # diffusers alone
    assert torch.allclose(draw(case.base, pipe), wanted, atol=1e-4)
    pipe.unload_lora_weights()
    assert torch.equal(draw(case.base), bare)


def modules(path: Path) -> dict[str, dict[str, Tensor]]:
    """A kohya-named file's tensors, by module and by ending."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in Artifact.load(path).tensors.items():
        module, _, role = key.partition(".")
        found.setdefault(module, {})[role] = tensor
    return found


def test_other_programs_compute_what_was_trained(case: SimpleNamespace) -> None:
    """By ComfyUI's and A1111's own arithmetic; A1111's of DoRA is another, as the proofs' sentences say."""
    names = kohya_map(case.base)
    for module, tensors in modules(case.files[0]).items():
        target = case.lora.targets[names[module]]
        weight = weight_in(weight_of(case.base, target))
        wanted = weight + case.lora.changes[target.name].delta(weight)
        assert torch.allclose(comfyui(weight, tensors), wanted, rtol=1e-4, atol=1e-5), module
        assert torch.allclose(a1111(weight, tensors), wanted, rtol=1e-4, atol=1e-5) == (case.variant != "dora"), module


def test_what_is_read_is_what_was_written(case: SimpleNamespace) -> None:
    for path in case.files:
        back = Lora.from_artifact(Artifact.load(path), case.base)
        assert back.changes.keys() == case.lora.changes.keys()
        for name, change in case.lora.changes.items():
            weight = weight_in(weight_of(case.base, case.lora.targets[name]))
            assert torch.allclose(back.changes[name].delta(weight), change.delta(weight), atol=1e-5)
    kohya = Lora.from_artifact(Artifact.load(case.files[0]), case.base)
    assert (kohya.variant, kohya.rank) == (case.lora.variant, case.lora.rank)


def test_the_header_says_what_it_is(case: SimpleNamespace) -> None:
    said = Artifact.load(case.files[0]).metadata
    assert a1111_family(said) == case.family
    assert said["modelspec.architecture"] == f"{case.base.architecture}/lora"
    lycoris = case.variant in ("dora", "loha", "lokr")
    assert said["ss_network_module"] == ("lycoris.kohya" if lycoris else "networks.lora")
    if lycoris:
        algo = {"dora": '"algo": "lora", "dora_wd": "True"', "loha": '"algo": "loha"', "lokr": '"algo": "lokr"'}
        assert algo[case.variant] in said["ss_network_args"]
    assert case.lora.pipeline in case.lora.usage(case.files, "a cat")


def test_a_weight_multiplies_what_the_weights_change_by(trained: Callable, bases: Callable) -> None:
    """As ComfyUI's strength does, also for DoRA, whose rows peft would leave at their length."""
    base, files = bases("sd1"), trained("sd1", "dora").files
    lora, by_hand = trained("sd1", "dora").lora, bases("sd1")
    wanted = {}
    for name, target in lora.targets.items():
        weight = weight_of(by_hand, target).weight
        wanted[name] = weight.detach().clone()
        weight.data += 0.4 * lora.changes[name].delta(weight)
    picture = draw(by_hand)
    for name, target in lora.targets.items():
        weight_of(by_hand, target).weight.data.copy_(wanted[name])
    for path in files:
        pipe = base.pipeline()
        apply_adapter(pipe, path, 0.4, "cat")
        assert torch.allclose(draw(base, pipe), picture, atol=1e-4)
        pipe.unload_lora_weights()


def test_both_namings_of_sdxl_blocks_are_read(trained: Callable, bases: Callable, tmp_path: Path) -> None:
    """SGM's names are ours; diffusers' under kohya's prefix are common in the wild."""
    made, base = trained("sdxl", "lora"), bases("sdxl")
    artifact = Artifact.load(made.files[0])
    words = {target.kohya: target.by_path for target in made.lora.targets.values()}
    assert any(word != other for word, other in words.items())
    renamed = {f"{words[k.partition('.')[0]]}.{k.partition('.')[2]}": t for k, t in artifact.tensors.items()}
    path = tmp_path / "renamed.safetensors"
    Artifact(renamed, artifact.metadata).save(path)
    found = verify(path, base)
    assert found.landings["ComfyUI"].whole
    assert found.landings["A1111"].problems == ("A1111 has no match for `lora_unet_up_blocks_0_upsamplers_0_conv`",)
    count = len(made.lora.targets)
    sentences = prove([path, made.files[1]], base, "a cat")  # told, not refused: A1111 alone lacks a name
    assert any(f"A1111 takes {count - 1} of {count} modules" in sentence for sentence in sentences)
    assert f"{count} of {count} modules land in ComfyUI (kohya names)" in sentences
    with pytest.raises(RequestError, match="twice, under two names"):
        Lora.from_artifact(Artifact({**artifact.tensors, **renamed}, artifact.metadata), base, path)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_openclips_attention_needs_all_four_in_a1111(
    family: str, trained: Callable, bases: Callable, tmp_path: Path
) -> None:
    artifact = Artifact.load(trained(family, "lora").files[0])
    path = tmp_path / "three.safetensors"
    prefix = "lora_te2" if family == "sdxl" else "lora_te"
    kept = {k: t for k, t in artifact.tensors.items() if not (k.startswith(f"{prefix}_") and "self_attn_q" in k)}
    Artifact(kept, artifact.metadata).save(path)
    found = verify(path, bases(family)).landings
    assert found["ComfyUI"].whole and found["A1111"].landed == found["A1111"].total - 3
    assert "q, k, v and out are not all in the file" in found["A1111"].problems[0]


@pytest.mark.parametrize(
    ("variant", "dtype"), [("loha", torch.float16), ("lokr", torch.bfloat16), ("dora", torch.bfloat16)]
)
def test_half_precision_is_proved(
    variant: str, dtype: torch.dtype, trained: Callable, bases: Callable, tmp_path: Path
) -> None:
    lora = trained("sd1", variant).lora
    files = lora.write(tmp_path, "cat", dtype)
    assert lora.prove(files, bases("sd1"))
    kept = {"alpha", "dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.weight"}
    for name, tensor in [item for path in files for item in Artifact.load(path).tensors.items()]:
        assert (tensor.dtype == torch.float32) == name.endswith(tuple(kept)), name


def test_mixed_ranks_and_alphas_are_kept(tiny_family: Callable, bases: Callable, tmp_path: Path) -> None:
    from peft import inject_adapter_in_model

    live = LatentDiffusion.load(tiny_family("sd1"))
    patterns = {"rank_pattern": {"to_k": 1, "conv1": 3}, "alpha_pattern": {"to_v": 1.0, "conv1": 7.0}}
    inject_adapter_in_model(settings("rslora", UNET, 2, 3, **patterns), live.unet, adapter_name="mixed")
    fill(live)
    lora = Lora.from_model(live, metadata=FACTS, adapter="mixed")
    assert {change.rank for change in lora.changes.values()} == {1, 2, 3}
    assert lora.prove(lora.write(tmp_path, "cat", torch.float32), bases("sd1"))
