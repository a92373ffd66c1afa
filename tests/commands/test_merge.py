"""`tuner merge`: one adapter is itself, several are their sum, in a file or baked into a base; what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.adapters.conftest import VARIANTS
from tests.adapters.drawn import adapter, apart, deltas, saved, summed
from tuner.adapters.artifact import Artifact
from tuner.adapters.embeddings import Embedding
from tuner.adapters.naming import targets, weight_of
from tuner.models.latent_diffusion import LatentDiffusion
from tuner.models.words import Word


@pytest.fixture(scope="session")
def base(tiny_base: str) -> LatentDiffusion:
    return LatentDiffusion.load(tiny_base)


@pytest.fixture
def files(base: LatentDiffusion, tmp_path: Path) -> list[Path]:
    """Two LoRAs: a cat and a dog."""
    told = [("cat", {"trigger_phrase": "sks cat"}), ("dog", {"trigger_phrase": "a dog"})]
    return [saved(adapter(base, n, **said), tmp_path / f"{name}.safetensors") for n, (name, said) in enumerate(told)]


def bits(path: Path) -> dict[str, tuple]:
    """Every tensor, exactly: type, shape and bytes."""
    tensors = Artifact.load(path).tensors
    return {n: (t.dtype, t.shape, t.contiguous().reshape(-1).view(torch.uint8).tolist()) for n, t in tensors.items()}


@pytest.mark.parametrize("naming", ["kohya", "diffusers"])
@pytest.mark.parametrize("kind", [*VARIANTS, "full", "core"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_adapter_at_weight_1_is_itself(
    kind: str, naming: str, dtype: torch.dtype, base: LatentDiffusion, tuner: Callable, tmp_path: Path
) -> None:
    """Bit for bit, whatever it is; the header says what it was made of, and keeps all that it said."""
    lora = adapter(base, 1, kind="lora" if kind in ("dora", "rslora") else kind)
    path = saved(lora, tmp_path / "cat.safetensors", naming, dtype)
    if kind == "dora" and naming == "kohya":
        tensors = {f"{k.rpartition('.')[0]}.dora_scale": torch.ones(t.shape[0], *(1,) * (t.ndim - 1))
                   for k, t in Artifact.load(path).tensors.items() if k.endswith("lora_up.weight")}  # fmt: skip
        tensors = {k.replace(".lora_up", ""): t for k, t in tensors.items()}
        Artifact({**Artifact.load(path).tensors, **tensors}, Artifact.load(path).metadata).save(path)
    out = tmp_path / "out.safetensors"
    result = tuner("merge", path, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert bits(out) == bits(path)
    before, after = Artifact.load(path).metadata, Artifact.load(out).metadata
    assert after.items() >= before.items()
    assert after.keys() - before.keys() == {"modelspec.merged_from", "tuner.method", "tuner.weights"}
    assert "The adapter as it was" in result.stdout


def test_the_sum_and_its_screen(
    files: list[Path], base: LatentDiffusion, tuner: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "both.safetensors"
    result = tuner("merge", f"{files[0]}:0.8", files[1], "--block", "cat:down_blocks.0=0", "--base", base.identity,
                   "--out", out)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    one = {n: (0.0 if n.startswith("unet.down_blocks.0.") else 0.8) * t for n, t in deltas(files[0], base).items()}
    assert apart(deltas(out, base), summed((1.0, one), (1.0, deltas(files[1], base)))) < 1e-6
    page = result.stdout
    assert "2 adapters merged (exact)" in page and "cat.safetensors at 0.8, 0 in down_blocks.0" in " ".join(
        page.split()
    )
    assert f"tuner generate 'sks cat, a dog' --adapter {out}" in page or "tuner generate 'sks cat'" in page
    assert f"tuner verify {out}" in page
    said = Artifact.load(out).metadata
    assert said["modelspec.merged_from"] == "cat, dog" and said["modelspec.trigger_phrase"] == "sks cat, a dog"
    assert said["tuner.method"] == "exact" and said["modelspec.title"] == "both"
    weights = json.loads(said["tuner.weights"])
    assert weights[0] == {"file": "cat.safetensors", "weight": 0.8, "blocks": {"down_blocks.0": 0.0}}
    assert tuner("verify", out, "--base", base.identity).exit_code == 0


@pytest.mark.parametrize("flags", [("svd", "--rank", 2), ("svd", "--energy", 0.7), ("ties",), ("ties", "--rank", 2),
                                   ("dare", "--seed", 4), ("dare", "--rank", 3, "--density", 0.9),
                                   ("fusion",), ("fusion", "--energy", 0.99)])  # fmt: skip
def test_every_method_leaves_a_file_that_lands(
    flags: tuple, files: list[Path], base: LatentDiffusion, tuner: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    call = ("merge", *files, "--base", base.identity, "--out", out, "--json", "--method", *flags)
    result = tuner(*call)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["method"] == flags[0] and len(told["modules"]) == len(deltas(files[0], base))
    assert tuner("verify", out, "--base", base.identity).exit_code == 0
    kept = "--rank" in flags or "--energy" in flags
    whole = flags[0] in ("ties", "dare") and not kept
    assert all(key.endswith(".diff") for key in Artifact.load(out).tensors) == whole
    if kept and flags[0] != "fusion":
        assert told["error"] > 0 and all(0 < one["error"] < 1 for one in told["modules"].values())
    said = Artifact.load(out).metadata
    assert said["tuner.method"] == flags[0]
    out.unlink()
    assert tuner(*call).exit_code == 0 and Artifact.load(out).metadata == said, "the same again, bit for bit"


def test_fusion_takes_prompts_by_adapter(
    files: list[Path], base: LatentDiffusion, tuner: Callable, tmp_path: Path
) -> None:
    """Given, or made of the trigger words; an adapter that has neither is named."""
    bare = tmp_path / "bare.safetensors"
    said = {k: v for k, v in Artifact.load(files[0]).metadata.items() if "trigger" not in k}
    Artifact(Artifact.load(files[0]).tensors, said).save(bare)
    call = ("merge", bare, files[1], "--method", "fusion", "--out", tmp_path / "out.safetensors")
    assert "does not say which words call it" in tuner(*call, "--base", base.identity).stderr
    assert "name it by --base" in tuner(*call, "--prompt", "bare=a cat").stderr
    result = tuner(*call, "--base", base.identity, "--prompt", "bare=a cat", "--prompt", f"{bare}=a = sign")
    assert result.exit_code == 0, result.stderr
    words = " ".join(result.stdout.split())
    assert "each adapter's effect is missed by" in words and "the mean by" in words


# -- into a base -------------------------------------------------------------------------------------------------------


def weights(base: LatentDiffusion) -> dict[str, torch.Tensor]:
    return {name: weight_of(base, target).weight.double() for name, target in targets(base).items()}


def test_merge_then_bake_is_bake_then_bake(
    files: list[Path], base: LatentDiffusion, tuner: Callable, tmp_path: Path
) -> None:
    """And both are the base with the sum; what no adapter changes is as it was, bit for bit."""
    assert tuner("merge", f"{files[0]}:0.7", f"{files[1]}:-0.4", "--out", tmp_path / "sum.safetensors").exit_code == 0
    calls = {
        "merged": (tmp_path / "sum.safetensors", "--into", base.identity),
        "together": (f"{files[0]}:0.7", f"{files[1]}:-0.4", "--into", base.identity),
        "first": (f"{files[0]}:0.7", "--into", base.identity),
        "then": (f"{files[1]}:-0.4", "--into", tmp_path / "first"),
    }
    for name, call in calls.items():
        result = tuner("merge", *call, "--out", tmp_path / name, "--quiet")
        assert result.exit_code == 0, result.stderr
    assert f"tuner generate 'a dog' --base {tmp_path / 'then'}" in result.stdout
    before = weights(base)
    wanted = {name: before[name].clone() for name in before}
    for name, delta in summed((0.7, deltas(files[0], base)), (-0.4, deltas(files[1], base))).items():
        wanted[name] += delta
    for name in ("merged", "together", "then"):
        found = LatentDiffusion.load(str(tmp_path / name))
        assert apart(weights(found), wanted) < 1e-6
        rest = set(before) - set(deltas(files[0], base))
        assert all(torch.equal(weights(found)[key], before[key]) for key in rest)
        assert all(torch.equal(p, q) for p, q in zip(found.vae.parameters(), base.vae.parameters(), strict=True))


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_bake_in_half_precision(
    dtype: str, files: list[Path], base: LatentDiffusion, tuner: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert tuner("merge", files[0], "--into", base.identity, "--out", out, "--save-precision", dtype).exit_code == 0
    tensors = Artifact.load(out / "unet" / "diffusion_pytorch_model.safetensors").tensors
    assert {tensor.dtype for tensor in tensors.values()} == {{"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]}
    huge = tuner(
        "merge", f"{files[0]}:1e9", "--into", base.identity, "--out", tmp_path / "no", "--save-precision", "fp16"
    )
    assert huge.exit_code == 2 and "do not fit the precision" in huge.stderr and not (tmp_path / "no").exists()


# -- tokens ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokens(base: LatentDiffusion, tmp_path: Path) -> list[Path]:
    found = []
    for seed, (name, count) in enumerate((("fox", 2), ("owl", 1))):
        rows = torch.randn(count, base.text_encoder.config.hidden_size, generator=torch.Generator().manual_seed(seed))
        found += Embedding.of(base, Word(f"<{name}>", (rows,)), {}).write(tmp_path, name, torch.float32)
    return found


def test_tokens_are_listed_renamed_and_joined(
    tokens: list[Path], base: LatentDiffusion, tuner: Callable, tmp_path: Path
) -> None:
    result = tuner("merge", *tokens, "--rename", "<fox>=<red fox>", "--out", tmp_path / "all")
    assert result.exit_code == 0, result.stderr
    assert "<red fox>" in result.stdout and "2 vectors, from fox.safetensors" in result.stdout
    assert "1 vector" in result.stdout and "<owl>" in result.stdout
    fox, owl = (
        Embedding.load(tmp_path / "all" / "red_fox.safetensors"),
        Embedding.load(tmp_path / "all" / "owl.safetensors"),
    )
    assert fox.word.token == "<red fox>" and owl.word.token == "<owl>"
    assert torch.equal(fox.word.vectors[0], Embedding.load(tokens[0]).word.vectors[0])
    assert tuner("merge", *tokens, "--out", tmp_path / "both.safetensors").exit_code == 0
    both = Embedding.load(tmp_path / "both.safetensors").word
    assert both.token == "<both>" and len(both) == 3
    assert torch.equal(both.vectors[0][2:], Embedding.load(tokens[1]).word.vectors[0])
    for path in (tmp_path / "both.safetensors", tmp_path / "all" / "owl.safetensors"):
        assert tuner("verify", path, "--base", base.identity).exit_code == 0
    one = tuner("merge", tokens[0], "--rename", "<fox>=<vixen>", "--out", tmp_path / "one.safetensors", "--json")
    assert json.loads(one.stdout)["tokens"] == [{"token": "<vixen>", "vectors": 2, "from": str(tokens[0])}]
    assert Embedding.load(tmp_path / "one.safetensors").word.token == "<vixen>"


def test_what_tokens_do_not_have(tokens: list[Path], files: list[Path], tuner: Callable, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    for call, words in [
        ((*tokens, files[0]), "Tokens and other adapters cannot be one file"),
        ((f"{tokens[0]}:0.5",), "is a token, which"),
        ((*tokens, "--method", "svd", "--rank", 2), "These are tokens"), ((tokens[0], tokens[0]), "the file fox"),
        ((*tokens, "--rename", "<cat>=<dog>"), "OLD one of <fox>, <owl>"), ((*tokens, "--rename", "<fox>"), "OLD=NEW"),
        ((files[0], "--rename", "a=b"), "--rename is for tokens"),
    ]:  # fmt: skip
        refused(tuner("merge", *call, *out), words)
    assert not (tmp_path / "out").exists()


# -- wrong requests and broken files -----------------------------------------------------------------------------------


def refused(result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1 and "Traceback" not in result.output
    assert all(word in result.stderr for word in words), result.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--rank", -4), "--rank must be at least 1, not -4"), (("--rank", 0), "at least 1"),
        (("--rank", "big"), "whole number"),
        (("--method", "svd", "--rank", 2, "--energy", 0.5), "give one of them"),
        (("--method", "svd"), "--method svd needs --rank N or --energy X"), (("--rank", 2), "--method svd keeps"),
        (("--method", "svd", "--energy", 1.5), "at most 1"), (("--density", 0.5), "--density is for"),
        (("--method", "ties", "--density", 0), "more than 0"),
        (("--prompt", "cat=a"), "--prompt is for --method fusion"),
        (("--retain", "a cat"), "--retain is for --method fusion"),
        (("--method", "mean"), "must be one of exact"), (("--into", "emoji", "--base", "emoji"), "leave --base out"),
        (("--block", "down_blocks.1"), "must be FILE:BLOCK=WEIGHT"),
        (("--block", "cat:down_blocks.1=much"), "must be FILE"),
        (("--block", "cow:down_blocks.1=1"), "cow is none of the adapters cat.safetensors, dog.safetensors"),
        (("--block", "cat:down_blocks.9=1"), "changes nothing there"),
        (("--block", "up_blocks.9=1"), "none of the adapters"),
        (("--method", "fusion", "--prompt", "a cat"), "must be FILE=TEXT"), (("--new_rank", 4), "--rank"),
        (("--save-precision", "fp8"), "must be one of auto"),
    ],
)  # fmt: skip
def test_wrong_options(
    flags: tuple, words: str, files: list[Path], tuner: Callable, tiny_base: str, tmp_path: Path
) -> None:
    base = () if "--base" in flags or "--into" in flags else ("--base", tiny_base)
    refused(tuner("merge", *files, "--out", tmp_path / "out.safetensors", *base, *flags), words)
    assert not (tmp_path / "out.safetensors").exists()


def test_wrong_words(files: list[Path], tuner: Callable, tiny_base: str, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out.safetensors")
    for call, words in [
        ((*out,), "takes one or more adapters"), ((*files,), "--out FILE is missing"),
        ((*files, "--out", files[0]), "is there already"),
        ((*files, "--out", tmp_path / "out.ckpt"), "must end in .safetensors"),
        ((f"{files[0]}:strong", *out), "is not a weight"), ((f"{files[0]}:nan", *out), "is not a weight"),
        ((f"{files[0]}:inf", *out), "is not a weight"), ((tmp_path / "none.safetensors", *out), "there is no file"),
        ((tmp_path, *out), "is a folder"), ((f"{files[0]}:0", *out), "all weights are 0"),
        ((*files, "--into", tiny_base, "--out", tmp_path / "one.safetensors"), "is made from a single file"),
        ((*files, "--into", tmp_path / "nowhere", "--out", tmp_path / "folder"), "there is no such file or folder"),
    ]:  # fmt: skip
        refused(tuner("merge", *call), words)
    assert {path.name for path in tmp_path.iterdir()} == {"cat.safetensors", "dog.safetensors"}


def nan(tensors: dict[str, torch.Tensor]) -> None:
    last = sorted(name for name in tensors if name.endswith("lora_up.weight"))[-1]
    tensors[last] = tensors[last] * float("nan")


def half_gone(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[next(name for name in tensors if name.endswith("lora_up.weight"))]


def bias(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lora_unet_conv_in.diff_b"] = torch.ones(4)


def misfit(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if name.endswith("lora_up.weight"))
    tensors[name] = tensors[name][:, :1]


def no_alpha(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[next(name for name in tensors if name.endswith(".alpha"))]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (nan, "not finite"),
        (half_gone, "has no up"),
        (bias, "changes a bias"),
        (misfit, "do not fit"),
        (no_alpha, "has no alpha"),
    ],
)
def test_files_that_are_not_whole(
    change: Callable, words: str, files: list[Path], tuner: Callable, tmp_path: Path
) -> None:
    artifact = Artifact.load(files[0])
    tensors = dict(artifact.tensors)
    change(tensors)
    bad, out = tmp_path / "bad.safetensors", tmp_path / "out.safetensors"
    Artifact(tensors, artifact.metadata).save(bad)
    refused(tuner("merge", files[1], bad, "--out", out), "bad.safetensors", words)
    refused(tuner("merge", bad, "--out", out), "bad.safetensors", words)
    assert not out.exists() and tuner("merge", *files, "--out", out).exit_code == 0


def test_adapters_of_other_families_and_bases(
    files: list[Path], tuner: Callable, tiny_family: Callable[[str], str], tmp_path: Path
) -> None:
    other = saved(adapter(LatentDiffusion.load(tiny_family("sdxl")), 1), tmp_path / "xl.safetensors")
    out = ("--out", tmp_path / "out.safetensors")
    refused(tuner("merge", files[0], other, *out), "is for Stable Diffusion 1.x", "is for Stable Diffusion XL")
    into = ("--into", tiny_family("sd2"), "--out", tmp_path / "folder")
    refused(tuner("merge", files[0], *into), "is for Stable Diffusion 1.x", "is of Stable Diffusion 2.x")
    call = ("merge", f"{other}:0.5", "--block", "mid_block=1", "--base", tiny_family("sd1"), *out)
    refused(tuner(*call), "is for Stable Diffusion XL", "is of Stable Diffusion 1.x")
    nothing = tmp_path / "something.safetensors"
    Artifact({"weight": torch.ones(1, 2, 3, 3)}).save(nothing)
    refused(tuner("merge", nothing, *out), "holds no LoRA under kohya's or diffusers' names")
    assert not any(path.name.startswith(("out", "folder", ".")) for path in tmp_path.iterdir())
