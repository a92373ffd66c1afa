"""Which of what is judged was distilled to draw in few steps, who is its teacher, and how each of the two draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..adapters.header import manner
from ..sampling.manner import LCM_GUIDANCE, LCM_STEPS, Manner
from .bench import Bench, need
from .judged import Judged

Adapters = Sequence[tuple[Path, float]]
FEW = Manner("lcm", LCM_STEPS, LCM_GUIDANCE)  # of what does not say how it wants to be drawn with


@dataclass(frozen=True)
class Side:
    """Who draws, and how.

    Attributes:
        name: what the report calls it.
        base: the base.
        adapters: files on it, each with its weight.
        sampler: by name.
        guidance: its scale.
        schedule: what of the sampler's configuration is not as it has it by itself.
    """

    name: str
    base: str
    adapters: Adapters
    sampler: str
    guidance: float
    schedule: dict[str, Any] = field(default_factory=dict)


def manner_of(judged: Judged) -> Manner | None:
    """How a distilled adapter or base among what is judged says that it is drawn with; None where nothing is distilled.

    This is the only place that reads the sign of it: an adapter's in its header, a base's in its training.toml.
    """
    said = next((found for path, _ in judged.adapters if (found := manner(path))), None)
    return said or (Manner.of_base(judged.base) if judged.base else None)


def sides(bench: Bench) -> tuple[Side, Side]:
    """The student and its teacher.

    The student is the base with all adapters. The teacher is what it was distilled from: the base with all but the
    distilled ones, or where none says that it is, without any. Where the base itself is the student, its teacher is
    the base of --against, or the one that its run began from, with the same adapters.

    Raises:
        RequestError: there is nothing to be held against.
    """
    judged, c = bench.judged, bench.config
    need(judged.control is None, "A control network draws after conditions; judge it by --suite control.")
    said, few = manner_of(judged), [pair for pair in judged.adapters if manner(pair[0])]
    origin = _origin(bench)
    need(bool(few) or origin != judged.base or (bool(judged.adapters) and not Manner.of_base(judged.base)),
         "--suite few-step holds what was distilled against its teacher; name a distilled --adapter, or by --base a "
         "distilled model and by --against the base that it was distilled from.")  # fmt: skip
    left = [pair for pair in judged.adapters if pair not in few] if few or origin != judged.base else []
    way = said or FEW
    scale = c.guidance if said is None and is_told(bench, judged.base) else way.guidance
    student = Side("student", judged.base, judged.adapters, way.sampler, scale, way.schedule if said else {})
    return student, Side("teacher", origin, left, c.sampler, c.guidance)


def _origin(bench: Bench) -> str:
    """The base that the student's own was made from; itself where nothing else is said."""
    judged = bench.judged
    own = judged.folder is not None and Path(judged.base).is_relative_to(judged.folder)  # what a run has left
    return bench.other_base or (str(judged.values.get("base", "")) if own else "") or judged.base


def is_told(bench: Bench, base: str) -> bool:
    """Whether a base is told the scale of guidance, as those of latent consistency are: they draw in one pass."""
    return bench.pipe(base).unet.config.time_cond_proj_dim is not None
