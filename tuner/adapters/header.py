"""What adapters say about themselves in their files' headers: ModelSpec 1.0.1, kohya's keys, and our own.

Metadata inside the program is a flat mapping under plain names (`title`, `trigger_phrase`, `config`, `seed`, ...). In a
header the names of the ModelSpec have its prefix, and all others ours; names that hold a dot or begin with `ss_` came
from someone's header and stand as they are.

ModelSpec: github.com/Stability-AI/ModelSpec. The hashes are told in `hashes`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..sampling.manner import Manner
from .container import read_header
from .hashes import hashes

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion

_SPEC = (
    "title", "resolution", "prediction_type", "description", "author", "date", "license", "usage_hint", "tags",
    "merged_from", "trigger_phrase", "timestep_range", "encoder_layer", "thumbnail",
)  # fmt: skip
_ELSEWHERE = ("architecture", "kohya_version", "implementation", "output_name")  # in keys of another name
_PREDICTION = {"v_prediction": "v"}  # the ModelSpec's word for it


def facts(base: LatentDiffusion) -> dict[str, str]:
    """What the base itself says about an adapter that is trained on it."""
    from .. import __version__

    return {
        "architecture": base.architecture,
        "kohya_version": base.kohya_version,
        "prediction_type": base.prediction_type,
        "resolution": f"{base.resolution}x{base.resolution}",
        "base": base.identity,
        "version": __version__,
    }


def _resolution(value: str) -> str:
    """`512` or `512x768` -> WIDTHxHEIGHT."""
    return f"{value}x{value}" if value.isdigit() else value


def modelspec(metadata: Mapping[str, str], kind: str) -> dict[str, str]:
    """The ModelSpec's keys and ours. `kind` is the adapter's: `lora`, `textual-inversion`.

    The hash is left to `hashed`, which is called when the tensors are final.
    """
    header = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{metadata['architecture']}/{kind}",
        "modelspec.implementation": metadata.get("implementation", "diffusers"),
        "modelspec.title": kind,
    }
    for name, value in metadata.items():
        if "." in name or name.startswith("ss_"):
            header[name] = value
        elif name in _SPEC:
            header[f"modelspec.{name}"] = value
        elif name not in _ELSEWHERE:
            header[f"tuner.{name}"] = value
    prediction, resolution = metadata["prediction_type"], metadata["resolution"]
    header["modelspec.prediction_type"] = _PREDICTION.get(prediction, prediction)
    header["modelspec.resolution"] = _resolution(resolution)
    return header


# LyCORIS' names of what sd-scripts' own network does not make (lycoris/kohya.py, `create_network`)
_LYCORIS = {
    "dora": {"algo": "lora", "dora_wd": "True", "wd_on_output": "True"}, "loha": {"algo": "loha"},
    "lokr": {"algo": "lokr"}, "full": {"algo": "full"},
}  # fmt: skip


def kohya(
    metadata: Mapping[str, str], rank: int, alpha: float, arguments: Mapping[str, str], variant: str = "lora"
) -> dict[str, str]:
    """The keys that A1111 and kohya's own tools read from an adapter."""
    version = metadata["kohya_version"]
    return {
        "ss_v2": str(version.startswith("sd_v2")),
        "ss_base_model_version": version,
        "ss_network_module": "lycoris.kohya" if variant in _LYCORIS else "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_network_args": json.dumps({**_LYCORIS.get(variant, {}), **arguments}),
        "ss_output_name": metadata.get("output_name", metadata.get("title", "")),
    }


def hashed(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The header with the hashes of the tensors that it will stand before; kohya's where kohya's keys are there."""
    training = {name: value for name, value in header.items() if name.startswith("ss_")}
    return {**header, **hashes(tensors, training)}


def manner(path: Path) -> Manner | None:
    """How pictures want to be drawn with an adapter's file, where it says so.

    Raises:
        RequestError: it is no safetensors file.
    """
    return Manner.of(plain(read_header(path).metadata))


def plain(header: Mapping[str, str]) -> dict[str, str]:
    """Metadata under plain names from a file's header, without what is made anew when it is written."""
    kept = {}
    for name, value in header.items():
        space, _, word = name.partition(".")
        if space == "tuner" or (space == "modelspec" and word in _SPEC):
            kept[word] = value
        elif space.startswith("ss_"):
            kept[name] = value
    if kept.get("prediction_type") == "v":
        kept["prediction_type"] = "v_prediction"
    return kept
