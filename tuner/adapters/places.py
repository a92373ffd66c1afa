"""Which modules several adapter files change together, though each file may spell them in its own way."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import RequestError
from .ground import Ground
from .naming import PARTS, Part, Target
from .source import Source

_ORIGINAL = re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks|time_embed_\d|label_emb|out_\d)")
_CONVOLUTION = re.compile(r"conv|in_layers|out_layers|skip_connection|_op$|proj_in$|proj_out$|input_blocks_0_0$")
_PARTS = {part.attribute: part for family in PARTS.values() for part in family}
_BY_PREFIX = {part.kohya: part for family in PARTS.values() for part in family}


@dataclass(frozen=True)
class Spelled(Target):
    """A module under the name that a file of kohya's naming has for it; its path may not be known."""

    word: str = ""

    @property
    def kohya(self) -> str:
        return self.word


@dataclass(frozen=True)
class Place:
    """A module that some of the files change.

    Attributes:
        target: the layer, named as the output is to name it and in the shape that the files tell.
        parts: the numbers of those files, and what each calls it.
    """

    target: Target
    parts: tuple[tuple[int, str], ...]


def naming_for(sources: Sequence[Source]) -> str:
    """How a file made of these is to be named: as they are; kohya's naming, which most programs take, where they
    differ."""
    found = {source.naming for source in sources}
    return found.pop() if len(found) == 1 else "kohya"


def places(sources: Sequence[Source], ground: Ground, named: bool = False) -> list[Place]:
    """All modules that the files change, in the order of the first file that has them.

    Args:
        named: find each module's path in the base, also where the files' own names would do.

    Raises:
        RequestError: a file changes a module that the base does not have, or two files one module of different sizes.
    """
    apart = len({source.naming for source in sources}) > 1 or len(set[str]().union(*map(_styles, sources))) > 1
    look = named or apart or any(_unsure(source, module) for source in sources for module in source.modules)
    found: dict[str, list[tuple[int, str]]] = {}
    for number, source in enumerate(sources):
        for module in source.modules:
            key = ground.target(source, module).name if look else _plain(module)
            if any(other == number for other, _ in found.get(key, ())):
                raise RequestError(f"{source.path} has `{module}` twice, under two names; nothing was written.")
            found.setdefault(key, []).append((number, module))
    return [Place(_target(sources, ground, tuple(parts), look, apart), tuple(parts)) for parts in found.values()]


def _styles(source: Source) -> set[str]:
    """How a file of kohya's naming, which has two ways, spells the U-Net's modules."""
    unet = [module for module in source.modules if module.startswith("lora_unet_")]
    return {"original" if _ORIGINAL.match(module) else "path" for module in unet}


def _unsure(source: Source, module: str) -> bool:
    """Whether the base must tell if a module is a convolution: LoHa and LoKr may hold it flat."""
    return not source.sure(module) and bool(_CONVOLUTION.search(module.replace(".", "_")))


def _plain(module: str) -> str:
    return re.sub(r"^text_encoder\.text_model\.", "text_encoder.", module)


def _target(
    sources: Sequence[Source], ground: Ground, parts: tuple[tuple[int, str], ...], look: bool, apart: bool
) -> Target:
    number, module = parts[0]
    known = ground.target(sources[number], module) if look else _guessed(module)
    shapes = [sources[n].shape(name, known.shape[2:]) for n, name in parts]
    for (n, name), shape in zip(parts, shapes, strict=True):
        if (shape[0], math.prod(shape[1:])) != (shapes[0][0], math.prod(shapes[0][1:])):
            raise RequestError(
                f"{sources[n].path} has `{name}` for a weight of {shape}, {sources[number].path} for one of "
                f"{shapes[0]}: they are for different bases; merge adapters of one base."
            )
    target = replace(known, shape=shapes[0])
    if apart or sources[number].naming == "diffusers":
        return target
    return Spelled(target.part, target.path, target.shape, target.original, word=module)


def _guessed(module: str) -> Target:
    """A module by its name alone: in diffusers' naming that is its path, in kohya's the path cannot be told."""
    network, _, path = module.partition(".")
    if path:
        live = path.removeprefix("text_model.") if network == "text_encoder" else path
        return Target(_PARTS.get(network, Part(network, network)), live, ())
    prefix = next((word for word in sorted(_BY_PREFIX, key=len, reverse=True) if module.startswith(f"{word}_")), "")
    return Target(_BY_PREFIX.get(prefix, Part(prefix, prefix)), module.removeprefix(f"{prefix}_"), ())
