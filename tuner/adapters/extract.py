"""An adapter from two models: the difference of every layer's weights, as a truncated singular value decomposition.

Singular values at the level of the rounding of the files are left out whatever rank is asked for: what was baked into a
base at rank 8 comes out at rank 8. What an adapter cannot hold (biases, norms, embeddings, the autoencoder) is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import RequestError
from ..models.quantize import weight_in
from . import header
from .changes import Change
from .flat import under
from .lora import Lora
from .merge import ALPHA, Figure
from .naming import targets, weight_of
from .rounding import Rounding
from .truncate import Keep, of_whole

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion

_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Extracted:
    """What an extraction gives.

    Attributes:
        lora: the adapter.
        figures: by module, as the file names it.
        left: parameters that differ and that no adapter holds -> by how much, relative to their own size.
        rounding: the relative error of the matrices that a half precision makes.
    """

    lora: Lora
    figures: dict[str, Figure]
    left: dict[str, float]
    rounding: float


def extract(
    tuned: LatentDiffusion, base: LatentDiffusion, keep: Keep, dtype: torch.dtype, tick: Callable[[int, int], None]
) -> Extracted:
    """The adapter that makes the base into the tuned model, as nearly as its ranks allow.

    Raises:
        RequestError: the two are of different architectures, or do not differ in any layer's weight.
    """
    known = targets(base)
    if known.keys() != targets(tuned).keys() or any(known[n].shape != t.shape for n, t in targets(tuned).items()):
        raise RequestError(
            f"{tuned.identity} is not of {base.identity}'s architecture; name the model that it was tuned from by "
            "--from."
        )
    writer, alpha = Rounding(dtype), float(keep.rank or ALPHA)
    changes: dict[str, Change] = {}
    figures: dict[str, Figure] = {}
    for number, (name, target) in enumerate(known.items()):
        new, old = (weight_in(weight_of(model, target)).cpu().float() for model in (tuned, base))
        if _differ(new, old):
            kept = of_whole((new - old).flatten(1), keep, _noise(new, old))
            change = under(kept.change(target.shape), alpha, rslora=False)
            changes[name] = writer.rounded(change, name)
            figures[target.kohya] = Figure(kept.up.shape[1], kept.lost, kept.size)
        tick(number + 1, len(known))
    left = _left(tuned, base, {f"{name}.weight" for name in known})
    if not changes:
        more = f"; {len(left)} other parameters do, which no adapter holds" if left else ""
        raise RequestError(f"{tuned.identity} has the weights of {base.identity} in every layer{more}.")
    told = {"extracted_from": tuned.identity, "extracted_rank": str(keep.rank or ""), **header.facts(base)}
    lora = Lora(changes, {name: known[name] for name in changes}, told)
    return Extracted(lora, figures, left, writer.error)


def _differ(new: Tensor, old: Tensor) -> bool:
    """Whether two weights differ by more than one of them being held in a half precision."""
    return not torch.equal(new, old) and not any(
        torch.equal(one, other.to(half).float()) for half in _HALVES for one, other in ((new, old), (old, new))
    )


def _noise(new: Tensor, old: Tensor) -> float:
    """The greatest singular value that the rounding of two weights makes of their difference, at most.

    Numbers are off by at most half of eps times their size, a random matrix of deviation s has singular values up to
    s (sqrt(out) + sqrt(in)); an even distribution of the rounding gives 1 / sqrt(3) of the bound.
    """
    spread = 0.0
    for weight in (new, old):
        size = weight.square().mean().sqrt().item()
        spread = max(spread, size * torch.finfo(_precision(weight)).eps / 2 / 3**0.5)
    rows, columns = new.flatten(1).shape
    return 2 * spread * (rows**0.5 + columns**0.5)


def _precision(weight: Tensor) -> torch.dtype:
    """The least precision that holds a weight as it is."""
    return next((half for half in _HALVES if torch.equal(weight, weight.to(half).float())), torch.float32)


def _left(tuned: LatentDiffusion, base: LatentDiffusion, covered: set[str]) -> dict[str, float]:
    """The parameters that differ beside the layers' weights."""
    found = {}
    for part, network in base.networks.items():
        other = tuned.networks[part].state_dict()
        for name, old in network.state_dict().items():
            new = other.get(name)
            if f"{part}.{name}" in covered or new is None or not old.is_floating_point():
                continue
            if new.shape != old.shape or _differ(new.float(), old.float()):
                apart = (new.float() - old.float()).norm() if new.shape == old.shape else old.float().norm()
                found[f"{part}.{name}"] = float(apart / old.float().norm().clamp(min=1e-12))
    return found
