"""Adapters baked into single-file checkpoints: what diffusers loads of them is the base with the sum, and no more."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.adapters.drawn import adapter, apart, deltas, saved, summed
from tuner.adapters.artifact import Artifact
from tuner.adapters.naming import targets, weight_of
from tuner.models import checkpoint as single
from tuner.models.latent_diffusion import LatentDiffusion

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from original import checkpoint

FAMILIES = ("sd1", "sd2", "sdxl")
EVERY = (
    r"unet\..*(to_q|to_out\.0|conv1|proj_in|emb.*|conv_(in|out|shortcut)|ff\.net\.2|samplers\.0\.conv)|text_encoder.*"
)


@pytest.fixture
def configs(tiny_family: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged configurations, shrunk: the shapes are the only difference to the published models."""
    for name in FAMILIES:
        shutil.copytree(tiny_family(name), tmp_path / "configs" / name, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setattr(single, "CONFIGS", tmp_path / "configs")


@pytest.mark.parametrize(("family", "dtype"), [("sd1", torch.float16), ("sd2", torch.float32), ("sdxl", torch.float32)])
def test_a_single_file_with_adapters_in_it(
    family: str, dtype: torch.dtype, configs: None, tiny_family: Callable, tuner: Callable, tmp_path: Path
) -> None:
    """Every kind of layer, OpenCLIP's joined q, k and v and its turned projection too; the rest to the bit."""
    base = LatentDiffusion.load(tiny_family(family))
    said = {"modelspec.prediction_type": "v" if family == "sd2" else "epsilon", "note": "of its own"}
    source, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    Artifact({n: t.to(dtype) for n, t in checkpoint(base).items()} | {"extra": torch.ones(2)}, said).save(source)
    paths = [saved(adapter(base, n, where=EVERY), tmp_path / f"{n}.safetensors") for n in (1, 2)]
    result = tuner("merge", f"{paths[0]}:0.5", paths[1], "--into", source, "--out", out)
    assert result.exit_code == 0, result.stderr
    before, after = Artifact.load(source), Artifact.load(out)
    assert before.tensors.keys() == after.tensors.keys()
    assert all(
        after.tensors[n].dtype == t.dtype and after.tensors[n].shape == t.shape for n, t in before.tensors.items()
    )
    assert after.metadata.items() >= said.items() and after.metadata["tuner.merged_from"] == "1, 2"
    wanted = summed((0.5, deltas(paths[0], base)), (1.0, deltas(paths[1], base)))
    old, new = LatentDiffusion.load(str(source)), LatentDiffusion.load(str(out))
    known = targets(new)
    found = {name: (weight_of(new, known[name]).weight - weight_of(old, known[name]).weight).double() for name in known}
    assert apart({name: found[name] for name in wanted}, wanted) < (1e-5 if dtype == torch.float32 else 2e-2)
    assert not any(found[name].any() for name in known.keys() - wanted.keys())
    layers = {f"{name}.weight" for name in wanted}
    for part, network in old.networks.items():
        theirs = new.networks[part].state_dict()
        assert all(torch.equal(t, theirs[n]) for n, t in network.state_dict().items() if f"{part}.{n}" not in layers)
    half = tmp_path / "half.safetensors"
    assert tuner("merge", paths[0], "--into", source, "--out", half, "--save-precision", "bf16").exit_code == 0
    assert {t.dtype for t in Artifact.load(half).tensors.values()} == {torch.bfloat16}


def test_a_checkpoint_becomes_a_folder(configs: None, tiny_family: Callable, tuner: Callable, tmp_path: Path) -> None:
    base = LatentDiffusion.load(tiny_family("sd1"))
    Artifact(checkpoint(base)).save(tmp_path / "model.safetensors")
    path = saved(adapter(base, 1), tmp_path / "cat.safetensors")
    result = tuner("merge", path, "--into", tmp_path / "model.safetensors", "--out", tmp_path / "folder")
    assert result.exit_code == 0, result.stderr
    new, wanted = LatentDiffusion.load(str(tmp_path / "folder")), deltas(path, base)
    known = targets(new)
    found = {n: (weight_of(new, known[n]).weight - weight_of(base, known[n]).weight).double() for n in wanted}
    assert apart(found, wanted) < 1e-5
