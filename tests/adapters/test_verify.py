"""Proofs by loading: what lands in diffusers, ComfyUI and A1111; a fault that would load in silence is caught."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tuner.adapters.apply import apply_adapter, parse_adapter, weights
from tuner.adapters.artifact import Artifact
from tuner.adapters.lora import Lora
from tuner.adapters.proof import prove
from tuner.adapters.verify import verify
from tuner.errors import RequestError, RunError
from tuner.models.latent_diffusion import LatentDiffusion


def state(base: LatentDiffusion) -> dict[str, torch.Tensor]:
    networks = (base.unet.state_dict(prefix="unet."), base.text_encoder.state_dict(prefix="text."))
    return {name: tensor.clone() for network in networks for name, tensor in network.items()}


def draw(base: LatentDiffusion, pipe: object) -> torch.Tensor:
    return pipe("a cat", height=32, width=32, num_inference_steps=2, guidance_scale=1.0, output_type="latent",
                generator=torch.Generator().manual_seed(1)).images  # fmt: skip


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """The file again, with its tensors changed."""
    artifact = Artifact.load(path)
    tensors = dict(artifact.tensors)
    change(tensors)
    Artifact(tensors, artifact.metadata).save(path)
    return path


@pytest.mark.parametrize(
    "how",
    [
        {},
        {
            "alpha": 3,
            "rank": 2,
            "variant": "rslora",
            "unet": ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.2"],
        },
        {"text": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]},
        {"unet": ["conv1", "conv_shortcut", "time_emb_proj", "conv_in", "linear_1", "downsamplers.0.conv"]},
        {"unet": [], "text": ["q_proj", "k_proj", "v_proj", "out_proj"]},
    ],
)
def test_what_we_write_is_proved(
    make: Callable[..., Lora], base: LatentDiffusion, tmp_path: Path, how: dict[str, object]
) -> None:
    lora = make(**how)
    before = state(base)
    paths = lora.write(tmp_path, "cat", torch.float32)
    sentences = lora.prove(paths, base)
    count = len(lora.targets)
    assert sentences == [
        f"{2 * count} of {2 * count} tensors land in diffusers (kohya names)",
        f"{count} of {count} modules land in ComfyUI and A1111 (kohya names)",
        f"{2 * count} of {2 * count} tensors land in diffusers (diffusers names)",
        "both namings give the same picture",
        "unloading restores the base exactly",
    ]
    after = state(base)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_the_strength_is_alpha_over_rank_in_both_namings(
    plain: Lora, base: LatentDiffusion, tiny_base: str, tmp_path: Path
) -> None:
    """Against the weights changed by hand: alpha is twice the rank here."""
    by_hand = LatentDiffusion.load(tiny_base)
    for name, target in plain.targets.items():
        layer = by_hand.unet.get_submodule(target.path)
        layer.weight.data += plain.changes[name].delta(layer.weight)
    wanted = draw(by_hand, by_hand.pipeline())
    for path in plain.write(tmp_path, "cat", torch.float32):
        pipe = base.pipeline()
        apply_adapter(pipe, path, 1.0, "cat")
        assert torch.allclose(draw(base, pipe), wanted, atol=1e-4)
        pipe.unload_lora_weights()


def test_files_in_half_precision_are_proved(plain: Lora, base: LatentDiffusion, tmp_path: Path) -> None:
    assert plain.prove(plain.write(tmp_path, "cat", torch.float16), base)


def test_diffusers_names_in_comfyui_and_a1111(files: list[Path], base: LatentDiffusion) -> None:
    found = verify(files[1], base)
    comfyui, a1111 = found.landings["ComfyUI"], found.landings["A1111"]
    assert found.whole and found.meant == ("diffusers",) and (comfyui.landed, a1111.landed) == (0, 0)
    assert "kohya" in comfyui.problems[0] and "first dot" in a1111.problems[0]


def first(tensors: dict[str, torch.Tensor], ending: str) -> str:
    return next(name for name in tensors if name.endswith(ending))


def corrupt_name(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q" in name]:
        tensors[name.replace("attn1_to_q", "attn1_to_x")] = tensors.pop(name)


def no_alpha(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[first(tensors, ".alpha")]


def no_up(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[first(tensors, "attn1_to_v.lora_up.weight")]


def no_down(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[first(tensors, "attn1_to_v.lora_down.weight")]


def wrong_shape(tensors: dict[str, torch.Tensor]) -> None:
    name = first(tensors, "attn1_to_v.lora_up.weight")
    tensors[name] = tensors[name][:-1]


def mixed_alphas(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first(tensors, "attn1_to_q.alpha")] = torch.tensor(1.0)


def no_effect(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        if name.endswith("lora_up.weight"):
            tensors[name] = torch.zeros_like(tensors[name])


def foreign_tensor(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lora_unet_conv_in.oft_blocks"] = torch.ones(1)


@pytest.mark.parametrize(
    ("change", "sentence", "programs"),
    [
        (corrupt_name, "attn1_to_x` is not a module of this base", (-1, -1, -1)),
        (no_alpha, "has no alpha", (-1, 0, 0)),
        (no_up, "has no up", (None, -1, None)),
        (no_down, "has no down", (None, None, None)),
        (wrong_shape, "do not fit this base's", (None, -1, -1)),
        (mixed_alphas, "has other values in diffusers", (-1, 0, 0)),
        (no_effect, "changes nothing", (0, 0, 0)),
        (foreign_tensor, "conv_in.oft_blocks` is not a LoRA tensor", (None, 0, 0)),
    ],
)
def test_a_fault_is_caught(
    files: list[Path], base: LatentDiffusion, change: Callable, sentence: str, programs: tuple[int | None, ...]
) -> None:
    """`programs`: what each takes, counted from the whole; None where the program takes nothing."""
    before = state(base)
    path = rewrite(files[0], change)
    found = verify(path, base)
    assert not found.whole and any(sentence in problem for problem in found.landings["diffusers"].problems)
    for landing, short in zip(found.landings.values(), programs, strict=True):
        assert landing.landed == (landing.total + short if short is not None else 0), landing
    with pytest.raises(RunError, match=r"cat.safetensors"):
        prove(files, base, "a cat")
    after = state(base)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_values_that_are_not_finite_fail_the_run(files: list[Path], base: LatentDiffusion) -> None:
    def poison(tensors: dict[str, torch.Tensor]) -> None:
        tensors[first(tensors, "lora_A.weight")] *= float("nan")

    rewrite(files[1], poison)
    with pytest.raises(RunError, match="not finite"):
        prove(files, base, "a cat")


def test_a_run_that_trained_nothing_fails(make: Callable[..., Lora], base: LatentDiffusion, tmp_path: Path) -> None:
    lora = make(zero=True)
    with pytest.raises(RunError, match="changes nothing"):
        lora.prove(lora.write(tmp_path, "cat", torch.float32), base)


def test_two_files_that_differ_are_told_apart(
    make: Callable[..., Lora], base: LatentDiffusion, files: list[Path], tmp_path: Path
) -> None:
    other = make(alpha=4).write(tmp_path / "other", "cat", torch.float32)
    with pytest.raises(RunError, match="different pictures"):
        prove([files[0], other[1]], base, "a cat")


def test_adapters_together_and_weighted(
    plain: Lora, with_text: Lora, tiny_base: str, tmp_path: Path, files: list[Path]
) -> None:
    base = LatentDiffusion.load(tiny_base)
    pipe = base.pipeline()
    bare = draw(base, pipe)
    apply_adapter(pipe, files[0], 0.0, "none")
    assert torch.equal(draw(base, pipe), bare)
    apply_adapter(pipe, files[1], 0.6, "one")
    alone = draw(base, pipe)
    text = with_text.write(tmp_path / "text", "text", torch.float32)[0]
    apply_adapter(pipe, text, -0.5, "two")
    assert weights(pipe) == pytest.approx({"none": 0.0, "one": 0.6, "two": -0.5})
    assert not torch.allclose(draw(base, pipe), alone)
    with pytest.raises(RequestError, match="does not fit this base"):
        apply_adapter(pipe, rewrite(files[0], corrupt_name), 1.0, "three")
    with pytest.raises(ValueError, match="already"):
        apply_adapter(pipe, files[1], 1.0, "one")
    pipe.delete_adapters("two")
    pipe.set_adapters(["none", "one"], [0.0, 0.6])
    assert torch.equal(draw(base, pipe), alone)


def test_what_diffusers_would_take_wrongly_is_translated(
    plain: Lora, files: list[Path], tiny_base: str, base: LatentDiffusion
) -> None:
    """Differing alphas: diffusers takes one of them for all, silently."""
    path = rewrite(files[0], mixed_alphas)
    by_hand = LatentDiffusion.load(tiny_base)
    for name, change in Lora.from_artifact(Artifact.load(path), base).changes.items():
        layer = by_hand.unet.get_submodule(plain.targets[name].path)
        layer.weight.data += change.delta(layer.weight)
    pipe = LatentDiffusion.load(tiny_base).pipeline()
    apply_adapter(pipe, path, 1.0, "one")
    assert torch.allclose(draw(base, pipe), draw(base, by_hand.pipeline()), atol=1e-4)
    with pytest.raises(RequestError, match="does not fit this base"):
        apply_adapter(pipe, rewrite(path, no_up), 1.0, "two")
    assert weights(pipe) == {"one": 1.0}


def test_an_adapter_is_a_file_and_a_weight(tmp_path: Path) -> None:
    plain, odd = tmp_path / "cat.safetensors", tmp_path / "odd:0.3"
    for file in (plain, odd):
        file.write_bytes(b"")
    assert parse_adapter(str(plain)) == (plain, 1.0)
    assert parse_adapter(f"{plain}:0.8") == (plain, 0.8)
    assert parse_adapter(f"{plain}:-1") == (plain, -1.0)
    assert parse_adapter(str(odd)) == (odd, 1.0) and parse_adapter(f"{odd}:2") == (odd, 2.0)
    for text, sentence in [
        (f"{plain}:strong", "not a weight"), (f"{plain}:", "not a weight"), (f"{plain}:nan", "not a weight"),
        (f"{tmp_path}/dog.safetensors:0.8", "there is no file"), ("dog", "there is no file"), (":1", "no file"),
        (f"{tmp_path}:1", "is a folder"),
    ]:  # fmt: skip
        with pytest.raises(RequestError, match=sentence):
            parse_adapter(text)
