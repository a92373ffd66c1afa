"""`tuner convert`: both ways without loss, tensor by tensor, whoever made the file; what lands is what it was."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters.conftest import TEXT, fill, settings
from tests.adapters.drawn import PLACES, adapter, apart, deltas, saved, with_rows
from tuner.adapters.artifact import Artifact
from tuner.adapters.lora import Lora
from tuner.adapters.reading import read
from tuner.adapters.verify import verify
from tuner.models.latent_diffusion import LatentDiffusion

FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="session")
def bases(tiny_family: Callable[[str], str]) -> Callable[[str], LatentDiffusion]:
    return cache(lambda family: LatentDiffusion.load(tiny_family(family)))


@pytest.fixture(scope="session")
def base(tiny_base: str) -> LatentDiffusion:
    return LatentDiffusion.load(tiny_base)


def alike(one: Path, other: Path) -> None:
    """The same tensors to the bit, types and shapes included, and the same header."""
    mine, its = Artifact.load(one), Artifact.load(other)
    assert mine.tensors.keys() == its.tensors.keys()
    for name, tensor in mine.tensors.items():
        found = its.tensors[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape) and torch.equal(found, tensor), name
    assert dict(mine.metadata) == dict(its.metadata)


def change(path: Path, edit: Callable[[str, torch.Tensor], Any], **said: str) -> Path:
    """A file's tensors under other names or with other values; None leaves one out."""
    artifact = Artifact.load(path)
    tensors = {}
    for name, tensor in artifact.tensors.items():
        found = edit(name, tensor)
        if found is not None:
            tensors[found[0]] = found[1]
    Artifact(tensors, {**artifact.metadata, **said}).save(path)
    return path


def by_path(lora: Lora) -> Callable[[str, torch.Tensor], Any]:
    words = {target.kohya: target.by_path for target in lora.targets.values()}
    return lambda name, t: (f"{words[name.partition('.')[0]]}.{name.partition('.')[2]}", t)


# What files of kohya's naming have otherwise than ours: each is as it was after there and back
ODD: dict[str, Callable[[Lora], Callable[[str, torch.Tensor], Any]]] = {
    "ours": lambda lora: lambda name, t: (name, t),
    "alphas in halves": lambda lora: lambda name, t: (name, t.half()),
    "alphas of one number": lambda lora: lambda name, t: (name, t.reshape(1) if name.endswith("alpha") else t),
    "alphas that differ": lambda lora: lambda name, t: (name, t + len(name) % 5 if name.endswith("alpha") else t),
    "no alphas": lambda lora: lambda name, t: None if name.endswith("alpha") else (name, t),
    "diffusers' blocks": by_path,
    "bf16": lambda lora: lambda name, t: (name, t.bfloat16() if not name.endswith("alpha") else t),
}


@pytest.mark.parametrize(
    ("family", "odd"),
    [*((family, "ours") for family in FAMILIES), ("sdxl", "alphas in halves"), ("sd2", "alphas of one number"),
     ("sdxl", "alphas that differ"), ("sd1", "no alphas"), ("sdxl", "diffusers' blocks"), ("sd1", "bf16")],
)  # fmt: skip
def test_kohyas_files_come_back_bit_for_bit(
    odd: str, family: str, bases: Callable, tuner: Callable, tmp_path: Path
) -> None:
    """Text encoders and convolutions too, without the base; and diffusers loads what is between, whole."""
    base, path = bases(family), tmp_path / "cat.safetensors"
    lora = adapter(base, 1, trigger_phrase="sks cat")
    change(saved(lora, path), ODD[odd](lora), ss_tag_frequency='{"10_cat": {"sks cat": 12}}', ss_seed="7")
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    result = tuner("convert", path, "--to", "diffusers", "--out", there)
    assert result.exit_code == 0, result.stderr
    count = len(Artifact.load(path).tensors)
    assert f"{count} of {count} tensors come back bit for bit" in " ".join(result.stdout.split())
    assert tuner("convert", there, "--to", "kohya", "--out", back).exit_code == 0
    alike(path, back)
    found = verify(there, base)
    assert found.whole and found.landings["diffusers"].landed == len(lora.targets)
    said = Artifact.load(there).metadata
    assert said["modelspec.trigger_phrase"] == "sks cat" and not any(key.startswith("ss_") for key in said)
    mine = {n: c.update() for n, c in read(Artifact.load(path), base).changes.items()}
    assert apart({n: c.update() for n, c in read(Artifact.load(there), base).changes.items()}, mine) < 1e-7


@pytest.mark.parametrize(
    ("family", "variant"), [("sd1", "lora"), ("sd2", "rslora"), ("sdxl", "lora"), ("sd1", "dora"), ("sdxl", "dora")]
)
def test_diffusers_files_come_back_bit_for_bit(
    family: str, variant: str, bases: Callable, tuner: Callable, tiny_family: Callable, tmp_path: Path
) -> None:
    from peft import inject_adapter_in_model

    live = LatentDiffusion.load(tiny_family(family))
    inject_adapter_in_model(
        settings(variant, ["to_q", "to_k", "to_v", "to_out.0", "conv1"], rank=2, alpha=3), live.unet
    )
    for encoder in live.text_encoders:
        inject_adapter_in_model(settings(variant, TEXT, rank=2, alpha=3), encoder)
    fill(live)
    path = Lora.from_model(live, metadata={"trigger_phrase": "sks cat"}).write(tmp_path, "cat", torch.float32)[1]
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    assert tuner("convert", path, "--to", "kohya", "--out", there).exit_code == 0
    assert tuner("convert", there, "--to", "diffusers", "--out", back).exit_code == 0
    alike(path, back)
    found = verify(there, bases(family))
    if variant != "dora":
        assert found.landings["ComfyUI"].whole and found.landings["diffusers"].whole
        assert Artifact.load(there).metadata["ss_base_model_version"] == live.kohya_version
    else:  # LyCORIS' terms: ComfyUI's need the base
        assert "ComfyUI divides DoRA's rows" in found.landings["ComfyUI"].problems[0]
        ours = tmp_path / "ours.safetensors"
        result = tuner("convert", path, "--to", "kohya", "--out", ours, "--base", tiny_family(family), "--json")
        assert verify(ours, bases(family)).landings["ComfyUI"].whole
        told = json.loads(result.stdout)
        assert told["tensors"] == len(Artifact.load(path).tensors) and told["worst"] < 2e-7


@pytest.mark.parametrize("family", FAMILIES)
def test_lycoris_doras_come_back_bit_for_bit(family: str, bases: Callable, tuner: Callable, tmp_path: Path) -> None:
    base = bases(family)
    path = with_rows(saved(adapter(base, 1), tmp_path / "cat.safetensors"), base)
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    assert tuner("convert", path, "--to", "diffusers", "--out", there).exit_code == 0
    assert tuner("convert", there, "--to", "kohya", "--out", back).exit_code == 0
    alike(path, back)
    assert verify(there, base).whole
    changes = Lora.from_artifact(Artifact.load(there), base).changes
    from tuner.adapters.naming import targets, weight_of

    own = {n: c.delta(weight_of(base, targets(base)[n]).weight) for n, c in changes.items()}
    assert apart(own, deltas(path, base)) < 2e-6


def test_our_doras_need_their_base(base: LatentDiffusion, tuner: Callable, tiny_base: str, tmp_path: Path) -> None:
    """Their magnitudes are in ComfyUI's terms: without the base nothing is written."""
    from peft import inject_adapter_in_model

    live = LatentDiffusion.load(tiny_base)
    inject_adapter_in_model(settings("dora", ["to_q"]), live.unet)
    fill(live)
    kohya, diffusers = Lora.from_model(live).write(tmp_path, "cat", torch.float32)
    out = tmp_path / "out.safetensors"
    missing = tuner("convert", kohya, "--to", "diffusers", "--out", out)
    assert missing.exit_code == 2 and not out.exists() and "--base" in missing.stderr
    assert tuner("convert", kohya, "--to", "diffusers", "--out", out, "--base", tiny_base).exit_code == 0
    mine, its = Artifact.load(out).tensors, Artifact.load(diffusers).tensors
    assert mine.keys() == its.keys() and all(torch.allclose(mine[n], its[n], rtol=1e-6, atol=0) for n in its)
    assert "tuner.dora_norm" not in Artifact.load(out).metadata
    assert tuner("convert", out, "--to", "kohya", "--out", tmp_path / "no.safetensors").exit_code == 2
    again = tmp_path / "again.safetensors"
    assert tuner("convert", out, "--to", "kohya", "--out", again, "--base", tiny_base).exit_code == 0
    before, after = Artifact.load(kohya), Artifact.load(again)
    assert all(torch.allclose(after.tensors[n], t, rtol=3e-7, atol=0) for n, t in before.tensors.items())
    assert after.metadata.keys() == before.metadata.keys()


@pytest.mark.parametrize("kind", ["loha", "lokr", "full", "core"])
def test_what_diffusers_does_not_load_becomes_lora_exactly(
    kind: str, bases: Callable, tuner: Callable, tmp_path: Path
) -> None:
    base = bases("sd1")
    path = saved(adapter(base, 1, kind=kind), tmp_path / "cat.safetensors")
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    result = tuner("convert", path, "--to", "diffusers", "--out", there)
    assert result.exit_code == 0, result.stderr
    assert "are LoRA now, exactly" in " ".join(result.stdout.split()) and "bit for bit" not in result.stdout
    assert verify(there, base).whole
    assert tuner("convert", there, "--to", "kohya", "--out", back).exit_code == 0
    assert apart(deltas(back, base), deltas(path, base)) < 1e-6


def by_diffusers_script(family: str, tiny_family: Callable, folder: Path, rank: int = 4) -> Path:
    """As train_text_to_image_lora.py saves: peft's layers, diffusers' conversion of their names, its saving."""
    import diffusers
    from diffusers.training_utils import _collate_lora_metadata
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    live = LatentDiffusion.load(tiny_family(family))
    networks: dict[str, Any] = {name: getattr(live, name) for name in ("unet", *live.family.encoders)}
    for name, network in networks.items():
        where = TEXT if name != "unet" else ["to_q", "to_k", "to_v", "to_out.0"]
        network.add_adapter(settings("lora", where, rank=rank, alpha=6))
    fill(live)
    layers = {
        f"{n}_lora_layers": convert_state_dict_to_diffusers(get_peft_model_state_dict(m)) for n, m in networks.items()
    }
    getattr(diffusers, live.family.pipeline).save_lora_weights(
        str(folder), **layers, **_collate_lora_metadata(networks)
    )
    return folder / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("family", FAMILIES)
def test_files_of_diffusers_own_script(
    family: str, bases: Callable, tiny_family: Callable, tuner: Callable, tmp_path: Path
) -> None:
    """Names end in `lora.down.weight` and `lora_linear_layer.down.weight` there."""
    base, path = bases(family), by_diffusers_script(family, tiny_family, tmp_path)
    assert any(name.endswith("to_q.lora.down.weight") for name in Artifact.load(path).tensors)
    assert verify(path, base).landings["diffusers"].whole
    told = json.loads(tuner("inspect", path, "--json").stdout)
    assert (told["kind"], told["naming"], list(told["ranks"]), list(told["alphas"])) == (
        "LoRA",
        "diffusers",
        ["4"],
        ["6.0"],
    )
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    call = ("convert", path, "--to", "kohya", "--out", there)
    if family != "sdxl":  # neither the header nor these shrunk widths tell
        assert "does not say which model it was made for" in tuner(*call).stderr
    assert tuner(*call, "--base", tiny_family(family)).exit_code == 0
    assert verify(there, base).whole
    assert tuner("convert", there, "--to", "diffusers", "--out", back, "--base", tiny_family(family)).exit_code == 0
    alike(path, back)
    merged = tmp_path / "merged.safetensors"
    assert tuner("merge", f"{path}:0.5", f"{there}:0.5", "--base", tiny_family(family), "--out", merged).exit_code == 0
    assert apart(deltas(merged, base), deltas(there, base)) < 1e-6


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_files_of_pefts_own_saving(
    part: str, bases: Callable, tiny_family: Callable, tuner: Callable, tmp_path: Path
) -> None:
    """`base_model.model.` before each name, and alpha in the configuration beside it."""
    from peft import get_peft_model

    live = LatentDiffusion.load(tiny_family("sd1"))
    where = TEXT if part != "unet" else ["to_q", "to_k", "to_v", "to_out.0", "conv1"]
    patterns = {"rank_pattern": {"to_k": 2}, "alpha_pattern": {"to_v": 1.0}}
    wrapped = get_peft_model(getattr(live, part), settings("rslora", where, rank=4, alpha=6, **patterns))
    fill(live)
    wrapped.save_pretrained(str(tmp_path / "saved"))
    path = tmp_path / "saved" / "adapter_model.safetensors"
    assert "in peft's naming" in tuner("inspect", path).stdout
    raw = tuner("verify", path, "--base", tiny_family("sd1"))
    assert raw.exit_code == 2 and "tuner convert" in raw.stderr
    setattr(live, part, wrapped.get_base_model())
    wanted = {name: change.update() for name, change in Lora.from_model(live).changes.items()}
    for naming in ("kohya", "diffusers"):
        out = tmp_path / f"{naming}.safetensors"
        result = tuner("convert", path, "--to", naming, "--out", out, "--base", tiny_family("sd1"))
        assert result.exit_code == 0, result.stderr
        assert verify(out, bases("sd1")).landings["ComfyUI" if naming == "kohya" else "diffusers"].whole
        found = {name: change.update() for name, change in read(Artifact.load(out), bases("sd1")).changes.items()}
        assert apart(found, wanted) < 1e-6
    both, other = tmp_path / "both.safetensors", tmp_path / "kohya.safetensors"
    call = ("merge", f"{path}:0.75", f"{other}:0.25", "--base", tiny_family("sd1"), "--out", both)
    result = tuner(*call)
    assert result.exit_code == 0, result.stderr
    found = {name: change.update() for name, change in read(Artifact.load(both), bases("sd1")).changes.items()}
    assert apart(found, wanted) < 1e-6
    (tmp_path / "saved" / "adapter_config.json").unlink()
    result = tuner("convert", path, "--to", "kohya", "--out", tmp_path / "no.safetensors")
    assert result.exit_code == 2 and "adapter_config.json" in result.stderr


def test_a_file_that_was_changed_since_does_not_get_the_old_header(
    bases: Callable, tuner: Callable, tmp_path: Path
) -> None:
    path = saved(adapter(bases("sd1"), 1), tmp_path / "cat.safetensors")
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    assert tuner("convert", path, "--to", "diffusers", "--out", there).exit_code == 0
    change(there, lambda name, t: (name, 2 * t if "lora_B" in name else t))
    assert tuner("convert", there, "--to", "kohya", "--out", back).exit_code == 0
    before, after = Artifact.load(path), Artifact.load(back)
    assert before.metadata["sshs_model_hash"] != after.metadata["sshs_model_hash"]
    assert apart(deltas(back, bases("sd1")), {n: 2 * t for n, t in deltas(path, bases("sd1")).items()}) < 1e-6


def test_what_an_sd2_predicts_must_be_known(
    bases: Callable, tiny_family: Callable, tuner: Callable, tmp_path: Path
) -> None:
    """Or a header would say the wrong thing of it."""
    path = saved(adapter(bases("sd2"), 1), tmp_path / "cat.safetensors", "diffusers")
    kept = {k: v for k, v in Artifact.load(path).metadata.items() if k == "lora_adapter_metadata"}
    Artifact(Artifact.load(path).tensors, {**kept, "ss_v2": "True"}).save(path)
    out = tmp_path / "out.safetensors"
    result = tuner("convert", path, "--to", "kohya", "--out", out)
    assert result.exit_code == 2 and "predicts noise or v; name the model" in result.stderr and not out.exists()
    assert tuner("convert", path, "--to", "kohya", "--out", out, "--base", tiny_family("sd2")).exit_code == 0
    assert Artifact.load(out).metadata["ss_base_model_version"] == "sd_v2_v"


def test_wrong_requests(bases: Callable, base: LatentDiffusion, tuner: Callable, tmp_path: Path) -> None:
    path = saved(adapter(bases("sd1"), 1), tmp_path / "cat.safetensors")
    other = saved(adapter(base, 1, where=PLACES), tmp_path / "other.safetensors")
    change(other, lambda name, t: (name.replace("mid_block", "middle"), t))
    out = ("--out", tmp_path / "out.safetensors")
    for call, words in [
        ((path, "--to", "kohya", *out), "has kohya's naming already"), ((path, *out), "--to is missing"),
        ((path, "--to", "a1111", *out), "must be one of kohya, diffusers"), (("--to", "kohya", *out), "takes one file"),
        ((path, path, "--to", "kohya", *out), "takes one file, not 2"),
        ((path, "--to", "diffusers"), "--out FILE is missing"),
        ((path, "--to", "diffusers", "--out", path), "is there already"),
        ((other, "--to", "diffusers", *out), "is not a module of Stable Diffusion 1.x as it was published"),
        ((tmp_path / "no.safetensors", "--to", "kohya", *out), "no such file"),
    ]:  # fmt: skip
        result = tuner("convert", *call)
        assert result.exit_code == 2 and words in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"cat.safetensors", "other.safetensors"}
