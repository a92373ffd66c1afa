"""Putting adapter files into a diffusers pipeline, whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import RequestError
from ..models.quantize import weight_in
from ..models.words import forgetting
from . import embeddings
from .artifact import Artifact
from .changes import Change, LowRank
from .dora import Decomposed
from .flat import state_dict
from .lora import Lora
from .naming import layer_of, parts, targets, weight_of
from .reading import read

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def parse_adapter(text: str, option: str = "--adapter ") -> tuple[Path, float]:
    """`FILE[:WEIGHT]` -> the file and its weight, 1 by default. A name that is a file as it stands has no weight.

    Args:
        text: what was written.
        option: behind which flag, for the messages; empty where it stands by itself.

    Raises:
        RequestError: there is no such file, or the weight is not a finite number.
    """
    if Path(text).is_file():
        return Path(text), 1.0
    name, _, last = text.rpartition(":")
    path = Path(name if name and (_number(last) is not None or Path(name).is_file()) else text)
    if path.is_dir():
        raise RequestError(f"{option}{text}: {path} is a folder; name the .safetensors file in it.")
    if not path.is_file():
        raise RequestError(f"{option}{text}: there is no file {path}; name one as FILE or as FILE:WEIGHT.")
    weight = _number(last)
    if weight is None or not math.isfinite(weight):
        raise RequestError(f"{option}{text}: {last or 'nothing'} is not a weight; write a number, as in {path}:0.8.")
    return path, weight


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def apply_adapter(pipe: DiffusionPipeline, path: Path, weight: float, name: str) -> None:
    """Load an adapter of any kind into a pipeline, beside those that are there, and give it its weight.

    A learned word is taught to the pipeline (see `embeddings`). Changes of modules, whatever their kind, diffusers is
    given as a LoRA or a DoRA that does exactly the same. A weight multiplies what the layers' weights change by, as in
    ComfyUI; peft's DoRA would not, so at other weights than 1 its whole difference is loaded.

    Args:
        pipe: a diffusers pipeline of the family that the file was made for.
        path: the file.
        weight: what its effect is multiplied by.
        name: what the pipeline is to call it: a word without dots, not one that is there already.

    Raises:
        RequestError: the file is not an adapter, or not all of it lands in this pipeline, which is as it was before.
        ValueError: the pipeline has an adapter of that name.
    """
    if embeddings.is_embedding(path):
        embeddings.apply(pipe, path, weight)
        return
    artifact = Artifact.load(path)
    reading = read(artifact, pipe, path)
    if reading.problems:
        made = artifact.metadata.get("tuner.base", artifact.metadata.get("ss_base_model_version"))
        origin = f" (it was made for {made})" if made else ""
        more = f", and {len(reading.problems) - 1} more" if len(reading.problems) > 1 else ""
        raise RequestError(
            f"--adapter {path} does not fit this base{origin}: {reading.problems[0]}{more}; name the base that it was "
            "made for by --base."
        )
    before = weights(pipe)
    if name in before:
        raise ValueError(f"the pipeline has an adapter {name} already")
    lora = Lora.from_reading(reading, pipe)
    flat = (lora if weight == 1 else _without_magnitudes(lora, pipe)).unscaled()
    try:
        attach(pipe, state_dict(flat.changes, flat.targets), name)
        missing = len(flat.changes) - len(landed(pipe, flat.changes, name))
        trouble = f"{missing} of its {len(flat.changes)} modules do not land" if missing else ""
    except Exception as error:  # whatever diffusers or peft raises here, the file is refused
        trouble = f"diffusers refuses it ({' '.join(str(error).split())[:200]})"
    if trouble:
        detach(pipe, name, before)
        raise RequestError(f"--adapter {path} cannot be used with this base: {trouble}.")
    together = {**before, name: weight}
    pipe.set_adapters(list(together), list(together.values()))


@contextmanager
def adapted(pipe: DiffusionPipeline, adapters: Sequence[tuple[Path, float]]) -> Iterator[DiffusionPipeline]:
    """A pipeline with adapters, each at its weight, which is the base's own again in the end, bit for bit."""
    with forgetting(pipe):
        try:
            for number, (path, weight) in enumerate(adapters):
                apply_adapter(pipe, path, weight, f"adapter_{number}")
            yield pipe
        finally:
            if adapters:
                pipe.unload_lora_weights()


def _without_magnitudes(lora: Lora, pipe: DiffusionPipeline) -> Lora:
    """The same with DoRA's whole differences, which take a weight as all other changes do."""
    whole: dict[str, Change] = {}
    for name, change in lora.changes.items():
        weight = weight_in(weight_of(pipe, lora.targets[name])).cpu() if isinstance(change, Decomposed) else None
        whole[name] = change.whole(weight) if isinstance(change, Decomposed) and weight is not None else change
    return replace(lora, changes=whole)


def weights(pipe: DiffusionPipeline) -> dict[str, float]:
    """The adapters in a pipeline and their weights, as its layers have them."""
    found: dict[str, float] = {}
    for target in targets(pipe).values():
        layer: Any = layer_of(pipe, target)
        for name in getattr(layer, "lora_A", ()):
            pair = (layer.lora_A[name].weight, layer.lora_B[name].weight)
            scale = LowRank(*pair, layer.lora_alpha[name], layer.use_rslora[name]).scale
            if name not in found and scale:
                found[name] = layer.scaling[name] / scale
    return found


def attach(pipe: DiffusionPipeline, source: Path | Mapping[str, torch.Tensor], name: str) -> None:
    """diffusers' own loading, without its notes on networks that a file does not change. Raises what it raises."""
    with quiet():
        pipe.load_lora_weights(str(source) if isinstance(source, Path) else dict(source), adapter_name=name)


def detach(pipe: DiffusionPipeline, name: str, others: Mapping[str, float]) -> None:
    """Remove an adapter, also one that has landed in part; with no others the layers are the base's own again."""
    from diffusers.utils.peft_utils import delete_adapter_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not others:
        pipe.unload_lora_weights()
        return
    for network in (getattr(pipe, part.attribute) for part in parts(pipe)):
        if any(isinstance(module, BaseTunerLayer) for module in network.modules()):
            with quiet():
                delete_adapter_layers(network, name)
    pipe.set_adapters(list(others), list(others.values()))


def landed(pipe: DiffusionPipeline, changes: Mapping[str, Change], name: str) -> list[str]:
    """The modules, by canonical name, whose live layer has the very matrices, scale and magnitudes that a file has."""
    known = targets(pipe)
    return [module for module, wanted in changes.items() if _same(layer_of(pipe, known[module]), wanted, name)]


def _same(layer: Any, wanted: Change, name: str) -> bool:
    """Whether a live layer of peft's holds a change as it is."""
    change = wanted.inner if isinstance(wanted, Decomposed) else wanted
    if name not in getattr(layer, "lora_A", ()) or not isinstance(change, LowRank) or change.mid is not None:
        return False
    pairs = [(layer.lora_A[name].weight, change.down), (layer.lora_B[name].weight, change.up)]
    if (name in layer.lora_magnitude_vector) != isinstance(wanted, Decomposed):
        return False
    if isinstance(wanted, Decomposed):
        pairs.append((layer.lora_magnitude_vector[name].weight.flatten(), wanted.magnitude))
    same = all(live.shape == file.shape and torch.equal(live, file.to(live)) for live, file in pairs)
    return same and math.isclose(layer.scaling[name], change.scale, rel_tol=1e-6)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what diffusers, transformers and peft log, warn of and draw while an adapter loads."""
    import warnings

    import diffusers
    import transformers

    libraries = (diffusers.utils.logging, transformers.utils.logging)
    levels = [logging.get_verbosity() for logging in libraries]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    try:
        for logging in libraries:
            logging.set_verbosity(logging.CRITICAL)
        transformers.utils.logging.disable_progress_bar()
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logging, level in zip(libraries, levels, strict=True):
            logging.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
