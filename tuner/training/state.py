"""What a run has learned so far, in one place: what a checkpoint holds and resuming puts back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import RequestError
from . import checkpoints, optimizers
from .checkpoints import Checkpoint

if TYPE_CHECKING:
    from ..recipe import Recipe


class State:
    """The parameters that train, the optimizer's memory, the average of the weights (`--ema`) and fp16's scale.

    Attributes:
        trained: the parameters by name.
        optimizer: torch's or another's, not yet wrapped by accelerate.
        average: diffusers' EMAModel, or None.
        scaler: torch's GradScaler, or None.
    """

    def __init__(self, recipe: Recipe, scaler: Any = None) -> None:
        config = recipe.config
        self.trained = {name: p for name, p in recipe.named_parameters() if p.requires_grad}
        self.optimizer = optimizers.optimizer(config, recipe.groups())
        self.average = _average(config.ema, self.trained) if config.ema else None
        self.scaler = scaler

    @property
    def averages(self) -> dict[str, Tensor]:
        """The average by name, as it is now and as it will become: it changes in place. Empty without `--ema`."""
        return dict(zip(self.trained, self.average.shadow_params, strict=True)) if self.average else {}

    def save(self, folder: Path, step: int, keep: int) -> None:
        """Write the checkpoint of step `step`; the newest `keep` stay."""
        tensors, plain = checkpoints.pack_optimizer(self.optimizer)
        parts: dict[str, Mapping[str, Tensor]] = {
            "weights": {name: p.detach() for name, p in self.trained.items()},
            "optimizer": tensors,
        }
        if self.average:
            parts["average"] = self.averages
        rest = {
            "optimizer": plain,
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "averaged": self.average.optimization_step if self.average else 0,
        }
        checkpoints.save(folder, Checkpoint(step, parts, rest), keep)

    def restore(self, found: Checkpoint, folder: Path) -> None:
        """Put back what a checkpoint in `folder` holds.

        Raises:
            RequestError: it is of other parameters than these.
        """
        weights = found.tensors["weights"]
        if weights.keys() != self.trained.keys():
            raise RequestError(f"The checkpoint in {folder} holds other parameters than this recipe trains.")
        with torch.no_grad():
            for name, value in weights.items():
                self.trained[name].copy_(value)
        checkpoints.unpack_optimizer(self.optimizer, found.tensors["optimizer"], found.state["optimizer"])
        if self.average:
            for name, value in self.averages.items():
                value.copy_(found.tensors["average"][name])
            self.average.optimization_step = found.state["averaged"]
        if self.scaler and found.state["scaler"]:
            self.scaler.load_state_dict(found.state["scaler"])

    def take_average(self) -> None:
        """Let the average follow the weights, after an update."""
        if self.average:
            self.average.step(self.trained.values())

    def keep_average(self) -> None:
        """Put the average in place of the weights, for good."""
        if self.average:
            self.average.copy_to(self.trained.values())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The average in place of the weights, for as long as the context lasts."""
        if self.average is None:
            yield
            return
        self.average.store(self.trained.values())
        self.average.copy_to(self.trained.values())
        try:
            yield
        finally:
            self.average.restore(self.trained.values())


def _average(decay: float, trained: Mapping[str, Tensor]) -> Any:
    from diffusers.training_utils import EMAModel

    return EMAModel(trained.values(), decay=decay)
