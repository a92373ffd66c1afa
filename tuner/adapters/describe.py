"""What a safetensors file is, told from its header alone: nothing here imports torch."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..models.family import FAMILIES
from .container import Container, Entry, read_header
from .roles import PEFT
from .signs import DOWN, WORD, other, seen, told

# How the names of an adapter's tensors end, whichever naming they are in -> what kind of adapter has them
_ROLES = {
    "lora_down.weight": "LoRA", "lora_up.weight": "LoRA", "lora_mid.weight": "LoRA", "lora_A.weight": "LoRA",
    "lora_B.weight": "LoRA", "lora.down.weight": "LoRA", "lora.up.weight": "LoRA", "dora_scale": "DoRA",
    "lora_linear_layer.down.weight": "LoRA", "lora_linear_layer.up.weight": "LoRA",
    "lora_magnitude_vector": "DoRA", "lora_magnitude_vector.weight": "DoRA", "alpha": "", "diff": "full differences",
    "diff_b": "full differences", **{f"hada_{n}": "LoHa" for n in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{n}": "LoKr" for n in ("w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b", "t2")},
    **{name: "OFT" for name in ("oft_blocks", "oft_diag")}, "on_input": "IA3", "w_norm": "full differences",
    "b_norm": "full differences",
}  # fmt: skip
_NETWORKS = {
    "lora_unet": "U-Net", "unet": "U-Net", "lora_te": "text encoder", "text_encoder": "text encoder",
    "lora_te1": "first text encoder", "lora_te2": "second text encoder", "text_encoder_2": "second text encoder",
    "transformer": "transformer", "lora_transformer": "transformer", "lycoris": "network",
}  # fmt: skip
_TITLES = {name: family.title for name, family in FAMILIES.items()}


@dataclass(frozen=True)
class Description:
    """What a file says of itself.

    Attributes:
        kind: `LoRA`, `DoRA`, `textual inversion`, `checkpoint`, ...
        naming: `kohya`, `diffusers` or `peft`, of adapters that change modules; else empty.
        family: `sd1`, `sd2`, `sdxl`, or empty where nothing tells it.
        base: what it was made on, as the header has it.
        networks: modules that change, by network.
        ranks: modules by rank.
        alphas: modules by alpha.
        without_alpha: modules that have none.
        tensors, size: their number; the file's bytes.
        precisions: values by precision, the most frequent first.
        trigger: the words that call it.
        vectors: of a learned word.
        metadata: the header's strings.
        warnings: a sentence each.
    """

    kind: str
    naming: str = ""
    family: str = ""
    base: str = ""
    networks: Mapping[str, int] = field(default_factory=dict)
    ranks: Mapping[int, int] = field(default_factory=dict)
    alphas: Mapping[float, int] = field(default_factory=dict)
    without_alpha: int = 0
    tensors: int = 0
    size: int = 0
    precisions: Mapping[str, int] = field(default_factory=dict)
    trigger: str = ""
    vectors: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The family as people call it; empty where it is not known."""
        return _TITLES.get(self.family, "")


def is_word(held: Container) -> bool:
    """Whether a header is that of a learned word."""
    return not by_module(held.entries) and other(held.entries)[0] == WORD


def describe(path: Path, held: Container | None = None) -> Description:
    """Read a file's header, unless that has been done, and the few bytes of its alphas.

    Raises:
        RequestError: it is not a whole safetensors file.
    """
    held = held or read_header(path)
    modules = by_module(held.entries)
    common: dict[str, Any] = {
        "base": _first(held.metadata, "tuner.base", "ss_sd_model_name", "ss_base_model_version"),
        "trigger": _first(held.metadata, "modelspec.trigger_phrase", "ss_trigger_words", "trigger_words"),
        "tensors": len(held.entries), "size": held.size, "precisions": held.precisions(), "metadata": held.metadata,
    }  # fmt: skip
    if not modules:
        kind, family = other(held.entries)
        words = _word(path, held, common) if kind == WORD else {}
        return Description(kind, **{"family": family or told(held.metadata), **common, **words})
    return _adapter(path, held, modules, common)


def _word(path: Path, held: Container, common: Mapping[str, Any]) -> dict[str, Any]:
    """What calls a learned word, and its vectors. Files that do not say it are called as the file is."""
    name, first = next(iter(held.entries.items()))
    nameless = len(held.entries) > 1 or name in ("clip_l", "clip_g", "emb_params", "string_to_param.*", "*")
    trigger = held.metadata.get("tuner.token") or common["trigger"] or (path.stem if nameless else name)
    said = told(held.metadata)  # goes before the width, which SDXL's first encoder shares with SD 1.x's
    vectors = first.shape[0] if len(first.shape) > 1 else 1
    return {"trigger": trigger, "vectors": vectors, **({"family": said} if said else {})}


def by_module(names: Iterable[str]) -> dict[str, set[str]]:
    """Module as the file spells it -> its endings, for names that an adapter of modules has; else empty."""
    found: dict[str, set[str]] = {}
    for name in names:
        dot = name.find(".")
        while dot >= 0 and name[dot + 1 :] not in _ROLES:
            dot = name.find(".", dot + 1)
        if dot >= 0:
            found.setdefault(name[:dot], set()).add(name[dot + 1 :])
    return {module: roles for module, roles in found.items() if roles != {"alpha"}}


def network_of(module: str) -> str:
    """The network that a module is in, in words."""
    match = re.match(r"lora_[a-z]+\d?", module)
    if module.startswith(PEFT):
        return "U-Net" if ".attn" in module or "resnets" in module else "network"
    prefix = match[0] if match and "." not in module else module.partition(".")[0]
    return _NETWORKS.get(prefix, prefix)


def _first(metadata: Mapping[str, str], *names: str) -> str:
    return next((metadata[name] for name in names if metadata.get(name)), "")


def _adapter(path: Path, held: Container, modules: Mapping[str, set[str]], common: Mapping[str, Any]) -> Description:
    naming = "diffusers" if any("." in module for module in modules) else "kohya"
    naming = "peft" if all(module.startswith(PEFT) for module in modules) else naming
    kinds = Counter(_ROLES[role] for roles in modules.values() for role in roles if _ROLES[role])
    named = [kind for kind in kinds if kind != "LoRA" or "DoRA" not in kinds]
    ranks = Counter(rank for module, roles in modules.items() if (rank := _rank(held.entries, module, roles)))
    alphas, lacking = _alphas(path, held, modules, naming) if naming != "peft" else (Counter[float](), 0)
    networks = Counter(network_of(module) for module in modules)
    said, shown = told(held.metadata), seen(held.entries, modules)
    return Description(
        " and ".join(named), naming, shown or said, networks=dict(networks.most_common()),
        ranks=dict(ranks.most_common()), alphas=dict(alphas.most_common()), without_alpha=lacking,
        warnings=_warnings(held, naming, kinds, said, shown, lacking, alphas),
        **common,
    )  # fmt: skip


def _rank(entries: Mapping[str, Entry], module: str, roles: set[str]) -> int | None:
    role = next((role for role in (*DOWN, "lokr_w2_b", "lokr_w1_b") if role in roles), None)
    shape = entries[f"{module}.{role}"].shape if role else ()
    return shape[0] if shape else None


def _alphas(path: Path, held: Container, modules: Mapping[str, set[str]], naming: str) -> tuple[Counter[float], int]:
    """Modules by alpha, and how many that have a rank are without."""
    scaled = [module for module, roles in modules.items() if roles & {*DOWN, "lokr_w2_b", "lokr_w1_b"}]
    if naming == "kohya":
        found = {module: held.entries.get(f"{module}.alpha") for module in scaled}
        values = held.scalars(path, [entry for entry in found.values() if entry])
        return Counter(value for value in values if value is not None), sum(not entry for entry in found.values())
    try:
        config = json.loads(held.metadata.get("lora_adapter_metadata", "{}"))
        alphas = [config.get(f"{module.partition('.')[0]}.lora_alpha") for module in scaled]
    except (ValueError, AttributeError):
        return Counter(), len(scaled)
    return Counter(float(alpha) for alpha in alphas if isinstance(alpha, int | float)), alphas.count(None)


def _warnings(
    held: Container, naming: str, kinds: Mapping[str, int], said: str, shown: str, lacking: int,
    alphas: Mapping[float, int],
) -> tuple[str, ...]:  # fmt: skip
    found = []
    if said and shown and said != shown:
        found.append(f"The header says {_TITLES[said]}, the tensors are those of {_TITLES[shown]}.")
    if naming == "kohya" and shown == "sdxl" and not held.metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        found.append("A1111 takes it for SD 1.x and hides its card: `ss_base_model_version` does not say SDXL.")
    elif naming == "kohya" and not set(held.metadata) - {"format"}:
        found.append("The header does not say what it was made for.")
    if naming == "peft":
        found.append("It has peft's own names: `tuner convert` makes a file of it that other programs take.")
    elif naming == "diffusers" and lacking:
        found.append("Without alpha in its header its scale is taken for 1.")
    elif lacking and alphas:
        found.append(f"{lacking} modules have no alpha: programs differ on their strength.")
    elif lacking:
        found.append("It has no alpha: its scale is taken for 1.")
    if len(alphas) > 1 and naming == "kohya":
        found.append("Its alphas differ: diffusers takes one of them for all of a network.")
    if not shown and not said and {"transformer", "lora_transformer"} & {m.partition(".")[0] for m in held.entries}:
        found.append("It is for a family that is not known here: Stable Diffusion 1.x, 2.x and SDXL are.")
    if kinds.get("DoRA") and naming == "kohya":
        found.append("A1111 computes DoRA over rows otherwise than it was trained.")
    return tuple(found)
