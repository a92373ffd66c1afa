"""The contract of a recipe, and how recipe files are found and loaded. Nothing here knows a recipe by name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from .data.batch import Batch
from .data.source import DataOptions, Source
from .errors import RequestError
from .models.latent_diffusion import LatentDiffusion, LossOptions
from .run import Run, RunOptions
from .sampling.manner import Manner
from .sampling.shots import GUIDANCE, STEPS
from .training.optimizers import OptimOptions
from .training.precision import MemoryOptions

if TYPE_CHECKING:
    from PIL import Image

    from .adapters.artifact import Export


class TrainConfig(DataOptions, OptimOptions, LossOptions, MemoryOptions, RunOptions):
    """The options that every recipe shares. A recipe's `Config` adds its own."""


class Recipe(nn.Module):
    """An objective and what it trains: one file, one class of this name.

    Parameters that require gradients are what trains and what checkpoints hold. `forward` gives the loss of each
    example, so that the loop can weigh, accumulate and average it.
    """

    Config: ClassVar[type[TrainConfig]] = TrainConfig
    adapts: ClassVar[bool] = False  # the result goes beside the base, whose weights may be held in half precision
    suite: ClassVar[str] = "prompts"  # by which `tuner evaluate RUN` judges its runs
    example: ClassVar[Mapping[str, Any]] = {}  # what a run has to be told besides pictures, for trials and tests
    source: Source  # what `data` gave, set before training
    averages: Mapping[str, Tensor] = {}  # the averaged weights by name (`--ema`), in training; they change in place

    def __init__(self, config: Any, model: LatentDiffusion) -> None:
        super().__init__()
        self.config, self.model = config, model

    @classmethod
    def default_name(cls, config: Any) -> str:
        """What the result is called where the user does not say: the folder's name."""
        return Path(config.images).resolve().name if config.images else cls.__name__.lower()

    @classmethod
    def check(cls, config: Any) -> None:
        """See, before anything is loaded or written, that what the options name is there: by default, the pictures.

        Raises:
            RequestError: it is not.
        """
        if not config.images:
            raise RequestError("--images is missing; name a folder of pictures.")
        on_hub = config.images.count("/") == 1 and not config.images.startswith((".", "/", "~"))
        if not Path(config.images).is_dir() and not on_hub:
            raise RequestError(f"--images {config.images}: there is no such folder.")

    @classmethod
    def usual(cls, given: Mapping[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        """The defaults that go before those of the fields: by default, what the base brings along.

        Args:
            given: what the user said, as it was written.
            defaults: what the base brings along.
        """
        return defaults

    @classmethod
    def base(cls, config: Any) -> LatentDiffusion:
        """The model to start from."""
        model = LatentDiffusion.load(config.base, config.quantize)
        if config.gradient_checkpointing:
            model.checkpoint_gradients()
        return model

    @classmethod
    def subject(cls, config: Any) -> str:
        """What prompts call what is learned, where the options say it; else it is told from the captions."""
        return str(config.trigger)

    @property
    def models(self) -> tuple[LatentDiffusion, ...]:
        """All models that are in memory for it: by default the one that trains."""
        return (self.model,)

    def data(self, run: Run) -> Source:
        """The examples: by default the folder of pictures, encoded once."""
        from .data.source import encoded

        return encoded(self.config, self.model)

    def forward(self, batch: Batch) -> Tensor:
        """The loss of each example, (B,)."""
        raise NotImplementedError(f"{type(self).__name__}.forward")

    def predict(self, noisy: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """What is predicted of noisy latents of a batch, (B, C, h, w): by default, by the model alone.

        A recipe that trains a network beside the model joins the two here; before its first step, nothing may differ.
        """
        return self.model.predict(noisy, t, self.model.told(batch))

    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups: by default one, of all that requires gradients."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def begin(self) -> None:
        """Called once before the first step, when the pictures before are drawn: for what is solved and not trained."""

    def after_step(self, step: int) -> None:
        """Called after optimizer step `step` (counted from 1)."""

    def artifact(self) -> Export:
        """What the run leaves: something that writes itself and proves that it works."""
        raise NotImplementedError(f"{type(self).__name__}.artifact")

    def metadata(self) -> dict[str, str]:
        """What every file of this recipe says about how it was made (see `adapters.header`)."""
        facts = {"config": self.config.model_dump_json(), "seed": str(self.config.seed)}
        return facts | ({"trigger_phrase": self.config.trigger} if self.config.trigger else {})

    def prompts(self, source: Source) -> list[str]:
        """The prompts of the before and after pictures, where the user names none."""
        return list(dict.fromkeys(source.captions))[:4]

    @property
    def manner(self) -> Manner:
        """How pictures of the result want to be drawn; by default as usual."""
        return Manner("dpm++", STEPS, GUIDANCE)

    def pictures(self, prompts: list[str], count: int) -> list[list[Image.Image]]:
        """What the model draws now, in its manner: a row a prompt, picture k with seed `seed + k`."""
        from .evaluation.pictures import pictures

        how, side = self.manner, self.config.resolution
        seeds = [self.config.seed + k for k in range(count)]
        drawn = pictures(how.pipeline(self.model), prompts, seeds, how.steps, how.guidance, resolution=side)
        return [drawn[i * count : (i + 1) * count] for i in range(len(prompts))]


def load_recipe(file: Path) -> ModuleType:
    """Import a recipe file, in the repository or outside it.

    Raises:
        RequestError: there is no such file, or it holds no `Recipe`.
    """
    if not file.is_file():
        raise RequestError(f"There is no recipe file {file}; name a .py file that holds a class `Recipe`.")
    spec = importlib.util.spec_from_file_location(f"tuner_recipe_{file.stem}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def recipe_class(module: ModuleType) -> type[Recipe]:
    """The one class of a recipe file that is a Recipe of its own."""
    found = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Recipe) and v is not Recipe]
    own = [cls for cls in found if cls.__module__ == module.__name__]
    if len(own) != 1:
        raise RequestError(f"{module.__file__} must define one subclass of tuner.recipe.Recipe; it has {len(own)}.")
    return own[0]
