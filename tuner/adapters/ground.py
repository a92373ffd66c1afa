"""The base that adapter files stand on: asked for names where files are spelled apart, for weights where DoRA is.

Most work on adapter files needs none. Where names alone are asked for, the published architecture of the family that
the files tell will do, without weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import RequestError
from ..models.family import FAMILIES
from ..models.quantize import weight_in
from .container import read_header
from .naming import Target, diffusers_map, spellings, targets, weight_of
from .signs import predicts
from .source import Source

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion


def load(base: str, option: str) -> LatentDiffusion:
    """Load a base that the user named behind another option than --base, or behind none.

    Raises:
        RequestError: as `LatentDiffusion.load`, about that option; or a file of a folder is not a whole one.
    """
    from ..models.latent_diffusion import LatentDiffusion

    _check_files(Path(base))
    try:
        return LatentDiffusion.load(base)
    except RequestError as error:
        raise RequestError(str(error).replace(f"--base {base}", f"{option} {base}".strip(), 1)) from error


def _check_files(folder: Path) -> None:
    """Refuse a diffusers folder with a broken file, over which a library would stumble, or of which it takes a part."""
    for part in sorted(folder.iterdir()) if folder.is_dir() else ():
        files = sorted(part.glob("*.safetensors"))
        for file in [file for file in files if ".fp16." not in file.name] or files:
            read_header(file)


class Ground:
    """What the work knows of the base.

    Args:
        base: what the user named; empty for nothing.
        sources: the files.
        option: what the user named it by.
    """

    def __init__(self, base: str, sources: Sequence[Source], option: str = "--base") -> None:
        self._named, self._sources, self._option = base, sources, option

    @property
    def known(self) -> bool:
        """Whether there are weights: the user named the base, or all files say that they were made on a bundled one."""
        return bool(self._name)

    @cached_property
    def _name(self) -> str:
        if self._named:
            return self._named
        from ..models.latent_diffusion import BUNDLED

        told = {source.described.metadata.get("tuner.base", "") for source in self._sources}
        return told.pop() if len(told) == 1 and told <= BUNDLED.keys() else ""

    @cached_property
    def model(self) -> LatentDiffusion:
        """The base with its weights.

        Raises:
            RequestError: it cannot be loaded, or is of another kind than a file is for.
        """
        assert self._name, "ask whether it is known"
        model = load(self._name, self._option)
        for source in self._sources:
            said = [(FAMILIES[source.family].title if source.family else "", model.family.title, "is for"),
                    (predicts(source.metadata), model.prediction_type, "is for a model that predicts")]  # fmt: skip
            for its, own, words in said:
                if its and its != own:
                    raise RequestError(
                        f"{source.path} {words} {its}, and {self._name} is of {own}; name its own model."
                    )
        return model

    @cached_property
    def _like(self) -> Any:
        """What has the names: the base, or the family's published architecture."""
        if self.known:
            return self.model
        from ..models.architecture import published

        family = next((source.family for source in self._sources if source.family), "")
        if not family:
            raise RequestError(
                f"{self._sources[0].path} does not say which model it was made for, and its tensors do not show it; "
                "name that model by --base."
            )
        return published(family, "meta")

    @cached_property
    def family(self) -> str:
        """The family's name."""
        return self._like.family.name

    @cached_property
    def targets(self) -> dict[str, Target]:
        """Canonical name -> every layer that may change."""
        return targets(self._like)

    @cached_property
    def _names(self) -> dict[str, dict[str, str]]:
        return {"kohya": spellings(self._like), "diffusers": diffusers_map(self._like)}

    def target(self, source: Source, module: str) -> Target:
        """The layer that a file's module is.

        Raises:
            RequestError: the base has none of that name, or one of another size.
        """
        name = self._names[source.naming].get(module)
        if name is None:
            like = self._name or f"{FAMILIES[self.family].title} as it was published"
            raise RequestError(
                f"{source.path} changes `{module}`, which is not a module of {like}; name the model that it is for by "
                "--base."
            )
        target = self.targets[name]
        shape = source.shape(module, target.shape[2:])
        if self.known and (shape[0], math.prod(shape[1:])) != (target.shape[0], math.prod(target.shape[1:])):
            raise RequestError(
                f"{source.path} has `{module}` for a weight of {shape}, where {self._name} has "
                f"{target.shape}; name the model that it is for by --base."
            )
        return target

    def weight(self, source: Source, module: str) -> Tensor:
        """The weight of the layer that a file's module is.

        Raises:
            RequestError: the base is not known.
        """
        if not self.known:
            raise RequestError(
                f"{source.path} is a DoRA, whose update depends on the base's weights; name the base by --base."
            )
        return weight_in(weight_of(self.model, self.target(source, module))).cpu()
