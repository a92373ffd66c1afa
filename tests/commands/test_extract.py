"""`tuner extract`: what was baked in comes out again; what no adapter holds is told."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.adapters.drawn import adapter, apart, deltas, saved
from tuner.adapters.artifact import Artifact
from tuner.models.architecture import save
from tuner.models.latent_diffusion import LatentDiffusion


@pytest.fixture(scope="session")
def base(tiny_base: str) -> LatentDiffusion:
    return LatentDiffusion.load(tiny_base)


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-5), ("fp16", 2e-2)])
@pytest.mark.parametrize("flags", [("--rank", 3), (), ("--energy", 0.999999), ("--rank", 20)])
def test_a_baked_lora_comes_out_at_its_rank(
    flags: tuple, precision: str, most: float, base: LatentDiffusion, tuner: Callable, tmp_path: Path
) -> None:
    """Whatever rank is asked for from its own upwards: what is left is the rounding of the files, and is left out."""
    path = saved(adapter(base, 1, rank=3), tmp_path / "cat.safetensors")
    call = ("merge", path, "--into", base.identity, "--out", tmp_path / "tuned", "--save-precision", precision)
    assert tuner(*call).exit_code == 0
    out = tmp_path / "out.safetensors"
    result = tuner("extract", tmp_path / "tuned", "--from", base.identity, "--out", out, "--json", *flags)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert {figure["rank"] for figure in told["modules"].values()} == {3}
    assert apart(deltas(out, base), deltas(path, base)) < most
    assert not told["left"], "a half precision of what did not change is no difference"
    assert tuner("verify", out, "--base", base.identity).exit_code == 0


def test_fewer_ranks_and_what_they_cost(base: LatentDiffusion, tuner: Callable, tmp_path: Path) -> None:
    path = saved(adapter(base, 1, rank=6), tmp_path / "cat.safetensors")
    assert tuner("merge", path, "--into", base.identity, "--out", tmp_path / "tuned").exit_code == 0
    out, wanted = tmp_path / "out.safetensors", deltas(path, base)
    result = tuner("extract", tmp_path / "tuned", "--from", base.identity, "--rank", 2, "--out", out, "--json")
    told = json.loads(result.stdout)
    tails = [torch.linalg.svdvals(t.flatten(1)).square() for t in wanted.values()]
    lost = sum(float(values[2:].sum()) for values in tails) / sum(float(values.sum()) for values in tails)
    assert told["error"] == pytest.approx(lost**0.5, rel=1e-4)
    assert apart(deltas(out, base), wanted) == pytest.approx(lost**0.5, rel=1e-4)
    half = tmp_path / "half.safetensors"
    call = (
        "extract",
        tmp_path / "tuned",
        "--from",
        base.identity,
        "--out",
        half,
        "--save-precision",
        "fp16",
        "--quiet",
    )
    result = tuner(*call)
    assert result.exit_code == 0 and "by the file's precision" in " ".join(result.stdout.split())
    assert apart(deltas(half, base), wanted) < 1e-3
    said = Artifact.load(half).metadata
    assert said["tuner.extracted_from"] == str(tmp_path / "tuned") and said["ss_base_model_version"] == "sd_v1"


def test_what_no_adapter_holds_is_told(base: LatentDiffusion, tiny_base: str, tuner: Callable, tmp_path: Path) -> None:
    """Biases, norms, embeddings, the autoencoder."""
    tuned = LatentDiffusion.load(tiny_base)
    tuned.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.data += 0.1
    for parameter in (tuned.unet.conv_in.bias, tuned.unet.conv_norm_out.weight, tuned.vae.decoder.conv_out.weight,
                      tuned.text_encoder.get_input_embeddings().weight):  # fmt: skip
        parameter.data += 0.5
    save(tuned, tmp_path / "tuned")
    call = ("extract", tmp_path / "tuned", "--from", tiny_base, "--rank", 4, "--out", tmp_path / "out.safetensors")
    told = json.loads(tuner(*call, "--json").stdout)
    assert len(told["modules"]) == 1 and len(told["left"]) == 4
    assert {name.partition(".")[0] for name in told["left"]} == {"unet", "vae", "text_encoder"}
    (tmp_path / "out.safetensors").unlink()
    words = " ".join(tuner(*call).stdout.split())
    assert "Not in the file, as no adapter holds it:" in words and "and 1 more" in words


def test_wrong_requests(
    base: LatentDiffusion, tiny_base: str, tiny_family: Callable, tuner: Callable, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "out.safetensors")
    for call, words in [
        ((tiny_base, "--from", tiny_base, *out), "has the weights of"),
        ((tiny_base, *out), "takes a model and its base"),
        (("--from", tiny_base, *out), "takes a model and its base"),
        ((tiny_base, "--from", tiny_base), "--out FILE is missing"),
        ((tiny_family("sd1"), "--from", tiny_base, *out), "is not of"),
        ((tmp_path / "no", "--from", tiny_base, *out), "no such file"),
        ((tiny_base, "--from", tiny_base, *out, "--rank", 2, "--energy", 0.5), "give one of them"),
        ((tiny_base, "--from", tiny_base, *out, "--rank", -1), "at least 1"),
    ]:  # fmt: skip
        result = tuner("extract", *call)
        assert result.exit_code == 2 and words in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    assert not any(tmp_path.iterdir())
