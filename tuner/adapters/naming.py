"""Which modules of a base an adapter may change, and what file formats call them, family by family.

Every name is made from the base's own module paths, so a name that is in no table here is a module that the base does
not have. kohya's names are the module's path with underscores behind a prefix: the path in diffusers for SD 1.x and
2.x, the path in the original layout for SDXL's U-Net (sd-scripts, networks/lora.py: each trains its own U-Net code).
diffusers' (peft's) names are the path itself. What programs match is told in `loaders`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from torch import nn

from ..models.family import family_of
from .sgm import original_names

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..models.latent_diffusion import LatentDiffusion

    Base: TypeAlias = LatentDiffusion | DiffusionPipeline


@dataclass(frozen=True)
class Part:
    """A network that adapters change, and how files spell it.

    Attributes:
        attribute: its name in a LatentDiffusion and in a diffusers pipeline; diffusers' names begin with it.
        kohya: what kohya's names begin with.
        original: whether kohya's names go by the original layout.
        openclip: whether programs of that layout have OpenCLIP's own text encoder here: q, k and v are one matrix.
    """

    attribute: str
    kohya: str
    original: bool = False
    openclip: bool = False


PARTS = {
    "sd1": (Part("unet", "lora_unet"), Part("text_encoder", "lora_te")),
    "sd2": (Part("unet", "lora_unet"), Part("text_encoder", "lora_te", openclip=True)),
    "sdxl": (
        Part("unet", "lora_unet", original=True), Part("text_encoder", "lora_te1"),
        Part("text_encoder_2", "lora_te2", openclip=True),
    ),
}  # fmt: skip
"""The networks by family."""

# transformers 5 has dropped it from CLIPTextModel's paths; files keep it, and diffusers reads both
_INNER = "text_model."
_OUTSIDE = ("text_projection",)  # of an encoder, beside what `text_model.` names


def parts(base: Base) -> tuple[Part, ...]:
    """The networks of a base, or of a pipeline, that adapters change."""
    return PARTS[family_of(base).name]


@dataclass(frozen=True)
class Target:
    """A linear or convolutional layer that an adapter may change.

    Attributes:
        part: the network that it is in.
        path: its path there.
        shape: its weight's: (out, in) or (out, in, height, width).
        original: its path in the original layout; empty for a text encoder's layer.
    """

    part: Part
    path: str
    shape: tuple[int, ...]
    original: str = ""

    @property
    def name(self) -> str:
        """The canonical name: `unet.mid_block.attentions.0.proj_in`."""
        return f"{self.part.attribute}.{self.path}"

    @property
    def _filed(self) -> str:
        plain = self.part.attribute == "unet" or self.path in _OUTSIDE
        return self.path if plain else _INNER + self.path.removeprefix(_INNER)

    @property
    def diffusers(self) -> str:
        """The name in diffusers' files: `text_encoder.text_model.encoder.layers.0.mlp.fc1`."""
        return f"{self.part.attribute}.{self._filed}"

    @property
    def by_path(self) -> str:
        """kohya's prefix and the path in diffusers: `lora_te_text_model_encoder_layers_0_mlp_fc1`."""
        return self._spelled(self._filed)

    @property
    def by_original(self) -> str:
        """kohya's prefix and the original path: `lora_unet_input_blocks_1_1_proj_in`; empty where there is none."""
        return self._spelled(self.original) if self.original else ""

    @property
    def kohya(self) -> str:
        """The name in kohya's files."""
        return (self.part.original and self.by_original) or self.by_path

    @property
    def spellings(self) -> set[str]:
        """Every name under which kohya-named files may have it."""
        return {self.by_path, self.by_original} - {""}

    def _spelled(self, path: str) -> str:
        return f"{self.part.kohya}_{path.replace('.', '_')}"


def _layers(network: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The paths and weight shapes of a network's layers; a layer that peft has wrapped keeps its own path."""
    wrapper = None
    for path, module in network.named_modules():
        if wrapper is not None and path.startswith(f"{wrapper}."):
            continue
        if hasattr(module, "base_layer"):
            wrapper, module = path, module.base_layer
        if isinstance(module, nn.Linear):  # its sizes, not its weight's: a quantised weight is packed
            yield path, (module.out_features, module.in_features)
        elif isinstance(module, nn.Conv2d):
            yield path, tuple(module.weight.shape)


def targets(base: Base) -> dict[str, Target]:
    """Canonical name -> every layer of a base (or of a pipeline) that an adapter may change."""
    found = []
    for part in parts(base):
        network = getattr(base, part.attribute)
        originals = original_names(network) if part.attribute == "unet" else {}
        found += [Target(part, path, shape, originals.get(path, "")) for path, shape in _layers(network)]
    return {target.name: target for target in found}


def kohya_map(base: Base) -> dict[str, str]:
    """kohya's name of a module -> its canonical name, for every linear and convolutional layer of the base."""
    found = targets(base)
    names = {target.kohya: name for name, target in found.items()}
    assert len(names) == len(found), "two modules of this base have one name in kohya's files"
    return names


def spellings(base: Base) -> dict[str, str]:
    """Every name that kohya-named files have for a module, in either layout -> its canonical name."""
    return {word: name for name, target in targets(base).items() for word in target.spellings}


def diffusers_map(base: Base) -> dict[str, str]:
    """The name of a module in diffusers' files, with and without `text_model.` -> its canonical name."""
    found = targets(base)
    return {target.diffusers: name for name, target in found.items()} | {name: name for name in found}


def layer_of(base: Base, target: Target) -> nn.Module:
    """The live layer: peft's, where it has wrapped it."""
    return getattr(base, target.part.attribute).get_submodule(target.path)


def weight_of(base: Base, target: Target) -> nn.Module:
    """The layer of the base's own, under any of peft's."""
    layer = layer_of(base, target)
    return getattr(layer, "base_layer", layer)
