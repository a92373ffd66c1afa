"""Merges against the sum of what the files change, told again in fp64; whatever kinds and namings they have."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.adapters.drawn import adapter, apart, deltas, modules, saved, summed, with_rows
from tuner.adapters.artifact import Artifact
from tuner.adapters.changes import LowRank
from tuner.adapters.combine import stacked, total
from tuner.adapters.ground import Ground
from tuner.adapters.lora import Lora
from tuner.adapters.merge import Merged, Way, merge
from tuner.adapters.merge_file import of
from tuner.adapters.provenance import check
from tuner.adapters.source import opened
from tuner.adapters.truncate import Keep
from tuner.adapters.verify import verify
from tuner.adapters.weighted import Weighted
from tuner.errors import RequestError
from tuner.models.latent_diffusion import LatentDiffusion

KINDS = ("lora", "core", "loha", "lokr", "full")
FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="session")
def bases(tiny_family: Callable[[str], str]) -> Callable[[str], LatentDiffusion]:
    return cache(lambda family: LatentDiffusion.load(tiny_family(family)))


def merged(
    out: Path,
    parts: Sequence[tuple[Path, float]],
    base: str = "",
    blocks: Sequence[dict[str, float]] = (),
    **way: object,
) -> Merged:
    """Merge files into one, as the command does."""
    with opened([path for path, _ in parts]) as sources:
        check(sources)
        own = blocks or [{}] * len(parts)
        adapters = [Weighted(s, w, b) for s, (_, w), b in zip(sources, parts, own, strict=True)]
        ground, how = Ground(base, sources), Way(**way)
        found = merge(adapters, ground, how)
        of(found, adapters, ground, how, out).save(out)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merge_is_the_weighted_sum(family: str, bases: Callable, tmp_path: Path) -> None:
    """Ranks, alphas and layers that differ, text encoders and convolutions included; no base is asked for."""
    base = bases(family)
    a = saved(adapter(base, 1, rank=3, alpha=2), tmp_path / "a.safetensors")
    b = saved(adapter(base, 2, rank=5, alpha=5, where=r".*(to_k|fc1|conv1)"), tmp_path / "b.safetensors")
    c = saved(adapter(base, 3, rank=2, alpha=9, where=r".*(to_q|to_k|to_v|to_out\.0)"), tmp_path / "c.safetensors")
    out = tmp_path / "out.safetensors"
    merged(out, [(a, 0.8), (b, -1.3), (c, 0.05)])
    wanted = summed((0.8, deltas(a, base)), (-1.3, deltas(b, base)), (0.05, deltas(c, base)))
    assert apart(deltas(out, base), wanted) < 2e-7
    found = verify(out, base)
    assert found.landings["diffusers"].whole and found.landings["ComfyUI"].whole
    ranks = {module: group["lora_down.weight"].shape[0] for module, group in modules(out).items()}
    assert set(ranks.values()) <= {3, 5, 2, 8, 7, 10}, "ranks are concatenated"


@pytest.mark.parametrize("one", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_kinds_mix_exactly(one: str, other: str, base: LatentDiffusion, tiny_base: str, tmp_path: Path) -> None:
    """Each stays small: low-rank, or the whole difference where that is smaller."""
    a = saved(adapter(base, 1, kind=one), tmp_path / "a.safetensors")
    b = saved(adapter(base, 2, kind=other), tmp_path / "b.safetensors")
    out = tmp_path / "out.safetensors"
    merged(out, [(a, 0.7), (b, 1.2)], tiny_base)
    assert apart(deltas(out, base), summed((0.7, deltas(a, base)), (1.2, deltas(b, base)))) < 5e-7
    for name, change in Lora.from_artifact(Artifact.load(out), base).changes.items():
        numbers = sum(t.numel() for role, t in change.tensors().items() if role != "alpha")
        shape = adapter(base, 1).targets[name].shape
        assert numbers <= max(torch.Size(shape).numel(), 6 * (shape[0] + torch.Size(shape[1:]).numel()))


@pytest.mark.parametrize("other", ["lora", "loha", "dora"])
def test_a_dora_is_its_difference_on_the_base(
    other: str, base: LatentDiffusion, tiny_base: str, tmp_path: Path
) -> None:
    a = with_rows(saved(adapter(base, 1), tmp_path / "a.safetensors"), base)
    b = saved(adapter(base, 2, kind="lora" if other == "dora" else other), tmp_path / "b.safetensors")
    b = with_rows(b, base) if other == "dora" else b
    out = tmp_path / "out.safetensors"
    merged(out, [(a, 0.5), (b, 1.0)], tiny_base)
    assert apart(deltas(out, base), summed((0.5, deltas(a, base)), (1.0, deltas(b, base)))) < 1e-6
    with pytest.raises(RequestError, match=r"is a DoRA, .* name the base by --base"):
        merged(tmp_path / "none.safetensors", [(a, 0.5), (b, 1.0)])
    assert not (tmp_path / "none.safetensors").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_alone_keeps_the_kind(kind: str, base: LatentDiffusion, tiny_base: str, tmp_path: Path) -> None:
    a = saved(adapter(base, 1, kind=kind), tmp_path / "a.safetensors")
    out = tmp_path / "out.safetensors"
    merged(out, [(a, -0.4)], tiny_base)
    assert apart(deltas(out, base), summed((-0.4, deltas(a, base)))) < 1e-7
    before, after = modules(a), modules(out)
    assert {module: set(group) for module, group in before.items()} == {m: set(group) for m, group in after.items()}


def test_weights_are_linear(base: LatentDiffusion, tmp_path: Path) -> None:
    """Merging merges: (a + b) + c is a + (b + c), and twice half of an adapter is the adapter."""
    paths = [saved(adapter(base, n), tmp_path / f"{n}.safetensors") for n in (1, 2, 3)]
    a, b, c = ((path, 1.0) for path in paths)
    merged(tmp_path / "ab.safetensors", [a, b])
    merged(tmp_path / "bc.safetensors", [b, c])
    merged(tmp_path / "left.safetensors", [(tmp_path / "ab.safetensors", 1.0), c])
    merged(tmp_path / "right.safetensors", [a, (tmp_path / "bc.safetensors", 1.0)])
    left, right = (deltas(tmp_path / f"{side}.safetensors", base) for side in ("left", "right"))
    assert apart(left, right) < 2e-7
    merged(tmp_path / "twice.safetensors", [(paths[0], 0.5), (paths[0], 0.5)])
    assert apart(deltas(tmp_path / "twice.safetensors", base), deltas(paths[0], base)) < 1e-7


@pytest.mark.parametrize("family", FAMILIES)
def test_namings_mix(family: str, bases: Callable, tmp_path: Path) -> None:
    """kohya's and diffusers' names, and for SDXL both spellings of kohya's: the family tells what is the same layer."""
    base = bases(family)
    a = saved(adapter(base, 1), tmp_path / "a.safetensors")
    b = saved(adapter(base, 2), tmp_path / "b.safetensors", "diffusers")
    twin = saved(adapter(base, 2), tmp_path / "twin.safetensors")
    words = {target.kohya: target.by_path for target in adapter(base, 1).targets.values()}
    artifact = Artifact.load(a)
    renamed = {f"{words[k.partition('.')[0]]}.{k.partition('.')[2]}": t for k, t in artifact.tensors.items()}
    Artifact(renamed, artifact.metadata).save(tmp_path / "by_path.safetensors")
    out, wanted = tmp_path / "out.safetensors", summed((1.0, deltas(a, base)), (2.0, deltas(twin, base)))
    for first in (a, tmp_path / "by_path.safetensors"):
        merged(out, [(first, 1.0), (b, 2.0)])
        assert apart(deltas(out, base), wanted) < 2e-7
        assert modules(out).keys() == modules(a).keys()
    merged(out, [(a, 1.0), (tmp_path / "by_path.safetensors", 0.5)])
    assert apart(deltas(out, base), summed((1.5, deltas(a, base)))) < 2e-7


def test_diffusers_files_stay_diffusers_files(base: LatentDiffusion, tmp_path: Path) -> None:
    a, b = (saved(adapter(base, n, kind="lora"), tmp_path / f"{n}.safetensors", "diffusers") for n in (1, 2))
    twins = [saved(adapter(base, n), tmp_path / f"kohya{n}.safetensors") for n in (1, 2)]
    out = tmp_path / "out.safetensors"
    assert merged(out, [(a, 0.3), (b, 1.0)]).naming == "diffusers"
    assert verify(out, base).whole
    found = {n: c.update() for n, c in Lora.from_artifact(Artifact.load(out), base).changes.items()}
    wanted = summed((0.3, deltas(twins[0], base)), (1.0, deltas(twins[1], base)))
    assert apart({n: t.reshape(wanted[n].shape) for n, t in found.items()}, wanted) < 2e-7


def test_no_rank_above_the_matrix_itself(base: LatentDiffusion, tmp_path: Path) -> None:
    where = r"unet\.down_blocks.*attn1\.to_q"
    paths = [saved(adapter(base, n, rank=6, where=where), tmp_path / f"{n}.safetensors") for n in range(5)]
    out = tmp_path / "out.safetensors"
    found = merged(out, [(path, 1.0) for path in paths])
    assert {figure.rank for figure in found.figures.values()} == {16}  # not 30
    assert apart(deltas(out, base), summed(*((1.0, deltas(path, base)) for path in paths))) < 1e-6


def test_blocks_have_weights_of_their_own(bases: Callable, tmp_path: Path) -> None:
    """Named as in diffusers, or as in the original layout; the longest name counts."""
    base = bases("sdxl")
    a, b = (saved(adapter(base, n), tmp_path / f"{n}.safetensors") for n in (1, 2))
    out = tmp_path / "out.safetensors"
    own = {"down_blocks.1": 0.5, "input_blocks.4.1.proj_in": 3.0, "text_encoder": 0.0}
    merged(out, [(a, 0.8), (b, 1.0)], blocks=[own, {}])
    one, other, found = deltas(a, base), deltas(b, base), deltas(out, base)
    for name, tensor in found.items():
        weight = 0.5 if name.startswith("unet.down_blocks.1.") else 0.0 if name.startswith("text_encoder.") else 0.8
        weight = 3.0 if name == "unet.down_blocks.1.attentions.0.proj_in" else weight
        assert apart({name: tensor}, {name: weight * one[name] + other[name]}) < 1e-6, name
    with pytest.raises(RequestError, match=r"--block down_blocks\.7: .*a\.safetensors changes nothing there"):
        (tmp_path / "1.safetensors").rename(tmp_path / "a.safetensors")
        merged(out, [(tmp_path / "a.safetensors", 1.0)], blocks=[{"down_blocks.7": 1.0}])
    with pytest.raises(RequestError, match="all weights are 0"):
        merged(out, [(b, 0.0)])


def test_half_precision_and_what_it_costs(base: LatentDiffusion, tmp_path: Path) -> None:
    paths = [saved(adapter(base, n), tmp_path / f"{n}.safetensors", dtype=torch.float16) for n in (1, 2)]
    out = tmp_path / "out.safetensors"
    wanted = summed((0.9, deltas(paths[0], base)), (0.7, deltas(paths[1], base)))
    found = merged(out, [(paths[0], 0.9), (paths[1], 0.7)], dtype=torch.float16)
    error = apart(deltas(out, base), wanted)
    assert 0 < found.rounding < 4e-4 and error < 5e-4
    assert {t.dtype for name, t in Artifact.load(out).tensors.items() if not name.endswith("alpha")} == {torch.float16}
    assert merged(out, [(paths[0], 0.9), (paths[1], 0.7)], dtype=torch.float32).rounding == 0
    assert apart(deltas(out, base), wanted) < 2e-7
    with pytest.raises(RequestError, match="do not fit fp16"):
        merged(out, [(paths[0], 1.0), (paths[1], 1e9)], dtype=torch.float16)


def test_a_truncation_says_what_it_costs(base: LatentDiffusion, tmp_path: Path) -> None:
    """Module by module the tail of the singular values, and so in total."""
    a, b = (saved(adapter(base, n, rank=4), tmp_path / f"{n}.safetensors") for n in (1, 2))
    out = tmp_path / "out.safetensors"
    wanted = summed((1.0, deltas(a, base)), (0.5, deltas(b, base)))
    for keep in (Keep(rank=3), Keep(energy=0.9)):
        found = merged(out, [(a, 1.0), (b, 0.5)], method="svd", keep=keep)
        lost = size = 0.0
        for (word, figure), (name, tensor) in zip(found.figures.items(), wanted.items(), strict=True):
            values = torch.linalg.svdvals(tensor.flatten(1)).square()
            tail = float(values[figure.rank :].sum() / values.sum()) ** 0.5
            assert figure.error == pytest.approx(tail, rel=1e-4), name
            assert figure.rank == 3 if keep.rank else float(values[: figure.rank].sum() / values.sum()) >= 0.9
            assert modules(out)[word]["lora_down.weight"].shape[0] == figure.rank
            lost, size = lost + figure.lost, size + figure.size
        assert apart(deltas(out, base), wanted) == pytest.approx((lost / size) ** 0.5, rel=1e-4)
        assert verify(out, base).whole


def other_header(path: Path, out: Path, **said: str) -> Path:
    artifact = Artifact.load(path)
    Artifact(artifact.tensors, {**artifact.metadata, **{k.replace("__", "."): v for k, v in said.items()}}).save(out)
    return out


def test_what_does_not_go_together_is_refused(bases: Callable, tmp_path: Path) -> None:
    a, b = (saved(adapter(bases(f), 1), tmp_path / f"{f}.safetensors") for f in ("sd1", "sd2"))
    out = tmp_path / "out.safetensors"
    with pytest.raises(RequestError, match=r"is for Stable Diffusion 1\.x, .* is for Stable Diffusion 2\.x; merge"):
        merged(out, [(a, 1.0), (b, 1.0)])
    eps = other_header(
        b, tmp_path / "eps.safetensors", modelspec__prediction_type="epsilon", ss_base_model_version="sd_v2"
    )
    with pytest.raises(RequestError, match=r"for a model that predicts v, .* for a model that predicts epsilon; merge"):
        merged(out, [(b, 1.0), (eps, 1.0)])
    bare = other_header(a, tmp_path / "bare.safetensors")
    Artifact(Artifact.load(a).tensors).save(bare)
    merged(out, [(a, 1.0), (bare, 1.0)])  # what says nothing of itself goes with what fits it
    with pytest.raises(RequestError, match=r"does not say which model it was made for, .* name that model by --base"):
        merged(out, [(bare, 1.0), (bare, 1.0)])
    wide = tmp_path / "wide.safetensors"
    grown = {n: torch.cat([t, t], 1) if "lora_down" in n else t for n, t in Artifact.load(a).tensors.items()}
    Artifact(grown, Artifact.load(a).metadata).save(wide)
    with pytest.raises(RequestError, match="they are for different bases"):
        merged(out, [(a, 1.0), (wide, 1.0)])


def test_another_tuned_base_is_told(base: LatentDiffusion, tmp_path: Path) -> None:
    a = saved(adapter(base, 1), tmp_path / "a.safetensors")
    b = other_header(a, tmp_path / "b.safetensors", tuner__base="someone/else")
    with opened([a, b]) as sources:
        (note,) = check(sources)
    assert "different bases of one family" in note and "someone/else" in note
    with opened([a, a]) as sources:
        assert check(sources) == []


def test_the_sum_of_low_ranks_keeps_the_first_ones_matrices() -> None:
    one, other = LowRank(torch.randn(2, 8), torch.randn(8, 2), 6.0), LowRank(torch.randn(3, 8), torch.randn(8, 3), 3.0)
    both = stacked([one.times(0.5), other], (8, 8))
    assert torch.equal(both.down[:2], one.down) and torch.equal(both.up[:, :2], one.up)
    assert torch.allclose(both.update(), 0.5 * one.update() + other.update(), atol=1e-5)
    assert total([one], (8, 8), True) is one
