"""Changes in the form that diffusers loads: low-rank, one alpha for each network, DoRA's magnitudes beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from .changes import Change, LowRank
from .dora import Decomposed
from .naming import Target


def inner(change: Change) -> Change:
    """The change before its rows take lengths of their own; any other as it is."""
    return change.inner if isinstance(change, Decomposed) else change


def low_rank(change: Change, shape: tuple[int, ...]) -> Change:
    """A low-rank change of a weight of this shape, with magnitudes where it has them."""
    if isinstance(change, Decomposed):
        return replace(change, inner=change.low_rank(shape))
    return change.low_rank(shape)


def under(change: Change, alpha: float, rslora: bool) -> Change:
    """A low-rank change under another alpha; any other as it is."""
    if isinstance(change, Decomposed):
        return replace(change, inner=under(change.inner, alpha, rslora))
    return change.rescaled(alpha, rslora) if isinstance(change, LowRank) else change


def common_alpha(changes: Iterable[Change], rslora: bool) -> float:
    """The numerator that most scales have; where there are no low-rank changes, that of the others."""
    plain = [inner(change) for change in changes]
    found = Counter(change.numerator(rslora) for change in plain if isinstance(change, LowRank))
    found = found or Counter(float(getattr(change, "scale", 1.0) * (change.rank or 1)) for change in plain)
    told = [alpha for alpha, _ in found.most_common() if alpha]
    return told[0] if told else 0.0


def state_dict(changes: Mapping[str, Change], targets: Mapping[str, Target]) -> dict[str, Tensor]:
    """The tensors of low-rank changes under diffusers' names."""
    tensors: dict[str, Tensor] = {}
    for name, target in targets.items():
        change = changes[name]
        plain = inner(change)
        assert isinstance(plain, LowRank), f"{name} is not a low-rank change"
        tensors[f"{target.diffusers}.lora_A.weight"] = plain.down
        tensors[f"{target.diffusers}.lora_B.weight"] = plain.up
        if isinstance(change, Decomposed):
            tensors[f"{target.diffusers}.{magnitude_name(target)}"] = change.magnitude.view(lengths(target.shape))
    return tensors


def configs(changes: Mapping[str, Change], targets: Mapping[str, Target], alpha: float, rslora: bool) -> dict[str, Any]:
    """peft's settings of low-rank changes, network by network, as diffusers writes them into a header."""
    found: dict[str, Any] = {}
    for part in dict.fromkeys(target.part for target in targets.values()):
        ranks = {t.path: changes[name].rank for name, t in targets.items() if t.part == part}
        rank = Counter(ranks.values()).most_common(1)[0][0]
        decomposed = any(isinstance(changes[name], Decomposed) for name, t in targets.items() if t.part == part)
        told = {
            "r": rank, "lora_alpha": alpha, "use_rslora": rslora, "use_dora": decomposed,
            "target_modules": list(ranks),
            "rank_pattern": {path: other for path, other in ranks.items() if other != rank},
        }  # fmt: skip
        found |= {f"{part.attribute}.{key}": value for key, value in told.items()}
    return found


def magnitude_name(target: Target) -> str:
    """How the name of DoRA's magnitudes ends: peft's ending for a U-Net, and for a text encoder that under which
    transformers 5 finds them (it puts the adapter's name behind `lora_magnitude_vector`, and no `.weight`).
    """
    return "lora_magnitude_vector" if target.part.attribute == "unet" else "lora_magnitude_vector.weight"


def lengths(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that peft has the magnitudes of a weight in: (out,), a convolution's (1, out, 1, 1)."""
    return (-1,) if len(shape) == 2 else (1, -1, *(1,) * (len(shape) - 2))
