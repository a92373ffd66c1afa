"""Which modules of a base an adapter may change, and what file formats call them.

Every name is made from the base's own module paths, so a name that is in no table here is a module that the base does
not have. kohya's names are the module's path with underscores behind a prefix; diffusers' (peft's) are the path itself.

What ComfyUI and A1111 match in a kohya-named file is told here from what their loaders do (see FORMATS.md):

- ComfyUI makes a table of diffusers' U-Net names from its model's configuration (levels, residual blocks a level,
  transformer depth), and one of the text encoder's six matrices a layer. `comfyui_map` is that table for this base.
- A1111 rewrites a diffusers name to its own (CompVis) name by fixed formulas for Stable Diffusion's layout, and looks
  that up among its modules. `a1111_map` has the kinds of modules that the formulas know, and their slip over the
  upsampling convolutions. Not modelled: that the formulas count two residual blocks a level (for a base of another
  depth we take its own count: such a base does not load in A1111 anyhow), and the open_clip encoders of SD 2 and SDXL,
  in which q, k, v and out must all be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from torch import nn

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..models.latent_diffusion import LatentDiffusion

    Base: TypeAlias = LatentDiffusion | DiffusionPipeline

# Kinds of modules: paths with `*` for every number.
_RESNET = ("conv1", "conv2", "conv_shortcut", "time_emb_proj")
_ATTENTION = tuple(f"{attn}.{to}" for attn in ("attn1", "attn2") for to in ("to_q", "to_k", "to_v", "to_out.*"))
_TRANSFORMER = tuple(f"transformer_blocks.*.{name}" for name in (*_ATTENTION, "ff.net.*.proj", "ff.net.*"))
_PLACES = {"resnets.*": _RESNET, "attentions.*": ("proj_in", "proj_out", *_TRANSFORMER)}
_BLOCKS = tuple(
    f"{block}.{place}.{leaf}"
    for block in ("down_blocks.*", "mid_block", "up_blocks.*")
    for place, leaves in _PLACES.items()
    for leaf in leaves
)
_ENDS = ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")
_RESAMPLERS = ("down_blocks.*.downsamplers.*.conv", "up_blocks.*.upsamplers.*.conv")
_EMBEDDINGS = tuple(f"{kind}_embedding.linear_{n}" for kind in ("add", "class") for n in (1, 2))
_CLIP_LEAVES = (*(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2")

UNET_KINDS = frozenset((*_BLOCKS, *_ENDS, *_RESAMPLERS))
CLIP_KINDS = frozenset(f"encoder.layers.*.{leaf}" for leaf in _CLIP_LEAVES)


@dataclass(frozen=True)
class Part:
    """A network that adapters change, and how files spell it.

    Attributes:
        attribute: its name in a LatentDiffusion and in a diffusers pipeline.
        prefix: what diffusers' names begin with.
        kohya: what kohya's names begin with.
        inner: what stands before a module's path in files: transformers 5 has dropped `text_model.` from the paths of
            CLIPTextModel, and files keep it (diffusers reads both).
        comfyui, a1111: the kinds of modules that these programs match.
    """

    attribute: str
    prefix: str
    kohya: str
    inner: str = ""
    comfyui: frozenset[str] = frozenset()
    a1111: frozenset[str] = frozenset()


PARTS = (
    Part("unet", "unet", "lora_unet", "", UNET_KINDS | frozenset(_EMBEDDINGS), UNET_KINDS),
    Part("text_encoder", "text_encoder", "lora_te", "text_model.", CLIP_KINDS, CLIP_KINDS),
)
"""Stable Diffusion 1.x. Another family says so by an attribute `adapter_parts` of its model."""


def parts(base: Base) -> tuple[Part, ...]:
    """The networks of a base that adapters change."""
    return getattr(base, "adapter_parts", PARTS)


@dataclass(frozen=True)
class Target:
    """A linear or convolutional layer that an adapter may change.

    Attributes:
        part: the network that it is in.
        path: its path there.
        shape: its weight's: (out, in) or (out, in, height, width).
    """

    part: Part
    path: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The canonical name: `unet.mid_block.attentions.0.proj_in`."""
        return f"{self.part.prefix}.{self.path}"

    @property
    def _filed(self) -> str:
        return self.part.inner + self.path.removeprefix(self.part.inner)

    @property
    def diffusers(self) -> str:
        """The name in diffusers' files: `text_encoder.text_model.encoder.layers.0.mlp.fc1`."""
        return f"{self.part.prefix}.{self._filed}"

    @property
    def kohya(self) -> str:
        """The name in kohya's files: `lora_te_text_model_encoder_layers_0_mlp_fc1`."""
        return f"{self.part.kohya}_{self._filed.replace('.', '_')}"

    @property
    def kind(self) -> str:
        """The path with `*` for every number."""
        return ".".join("*" if word.isdigit() else word for word in self.path.removeprefix(self.part.inner).split("."))


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
    found = [
        Target(part, path, shape) for part in parts(base) for path, shape in _layers(getattr(base, part.attribute))
    ]
    return {target.name: target for target in found}


def kohya_map(base: Base) -> dict[str, str]:
    """kohya's name of a module -> its canonical name, for every linear and convolutional layer of the base."""
    found = targets(base)
    names = {target.kohya: name for name, target in found.items()}
    assert len(names) == len(found), "two modules of this base have one name in kohya's files"
    return names


def diffusers_map(base: Base) -> dict[str, str]:
    """The name of a module in diffusers' files, with and without `text_model.` -> its canonical name."""
    found = targets(base)
    return {target.diffusers: name for name, target in found.items()} | {name: name for name in found}


def comfyui_map(base: Base) -> dict[str, str]:
    """The kohya names that ComfyUI matches in a model of this architecture -> canonical names."""
    return {t.kohya: name for name, t in targets(base).items() if t.kind in t.part.comfyui}


def a1111_map(base: Base) -> dict[str, str]:
    """The kohya names that A1111 matches in a model of this architecture -> canonical names.

    Its formula looks for the upsampling convolution behind a residual block in the first level up, and behind a
    residual block and an attention in the others; where the level is built otherwise, the name is not found.
    """
    found = targets(base)
    attentive = {t.path.split(".")[1] for t in found.values() if t.kind.startswith("up_blocks.*.attentions")}

    def formula_finds(target: Target) -> bool:
        if not target.kind.startswith("up_blocks.*.upsamplers"):
            return True
        level = target.path.split(".")[1]
        return (level != "0") == (level in attentive)

    return {t.kohya: name for name, t in found.items() if t.kind in t.part.a1111 and formula_finds(t)}
