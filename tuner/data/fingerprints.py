"""What a model's encoders are, in a word: a hash of their weights, and of the tokenizers' rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..models.shifts import Shift

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion

_known: WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], str]] = WeakKeyDictionary()


def weights(module: nn.Module) -> str:
    """A hash of a network's weights and their precision; computed anew only where they have changed.

    An adapter on the network that changes nothing yet, as those that are about to train, does not count.
    """
    tensors = dict(_tensors(module))
    state = tuple((name, t.data_ptr(), t._version, t.dtype) for name, t in tensors.items())
    if module in _known and _known[module][0] == state:
        return _known[module][1]
    made = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        made.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        made.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    _known[module] = state, made.hexdigest()
    return made.hexdigest()


def prompts(model: LatentDiffusion) -> str:
    """A hash of all that the encoding of a prompt depends on."""
    rules = [_rules(tokenizer) for tokenizer in model.tokenizers]
    encoders = [weights(encoder) for encoder in model.text_encoders]
    parts = [model.family.name, model.zero_empty, *encoders, *rules]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def drawing(model: LatentDiffusion) -> str:
    """A hash of all of a model that its pictures depend on."""
    schedule = {key: value for key, value in model.scheduler_config.items() if not key.startswith("_")}
    networks = [weights(model.unet), weights(model.vae)]
    parts = [prompts(model), *networks, model.vae.config.scaling_factor, schedule]
    return hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=16).hexdigest()


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A network's tensors by the names that they have without adapters."""
    idle = tuple(f"{name}." for name, layer in module.named_modules() if _idle(layer))
    for name, tensor in module.state_dict().items():
        inside = next((name[len(start) :] for start in idle if name.startswith(start)), "base_layer.")
        if isinstance(tensor, Tensor) and inside.startswith("base_layer."):
            yield name.replace(".base_layer.", "."), tensor


def _idle(layer: Any) -> bool:
    """Whether a layer carries adapters of peft, or a shift, that leave its weight as it is."""
    if isinstance(layer, Shift):
        return not layer.difference.count_nonzero()
    if not hasattr(layer, "base_layer") or not hasattr(layer, "get_delta_weight"):
        return False
    return not any(layer.get_delta_weight(name).count_nonzero() for name in layer.active_adapters)


def _rules(tokenizer: Any) -> str:
    """A tokenizer's vocabulary and rules, without what its last call left behind."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules |= {"truncation": None, "padding": None, "length": tokenizer.model_max_length}
    return json.dumps(rules, sort_keys=True)
