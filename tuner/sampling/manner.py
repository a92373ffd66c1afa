"""How pictures want to be drawn with what was distilled: by which sampler, in how few steps, with how little guidance.

Files say it in their metadata, whole models in the table `[generate]` of their training.toml. Importing this imports
neither torch nor diffusers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..models.samplers import SAMPLERS

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from ..models.latent_diffusion import LatentDiffusion

LCM_STEPS, LCM_GUIDANCE = 4, 1.0


@dataclass(frozen=True)
class Manner:
    """A way to draw.

    Attributes:
        sampler: by name, as in `samplers.SAMPLERS`.
        steps: of denoising.
        guidance: its scale.
        teacher_steps: the steps of the teacher's way, of which the sampler `lcm` takes some.
    """

    sampler: str
    steps: int
    guidance: float
    teacher_steps: int = 50

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Manner | None:
        """What metadata says under plain names (see `adapters.header`), or a table; None where it is nothing of use."""
        try:
            numbers = int(metadata["steps"]), float(metadata["guidance"]), int(metadata["teacher_steps"])
        except (KeyError, TypeError, ValueError):
            return None
        fits = min(numbers) > 0 and metadata.get("sampler") in SAMPLERS
        return cls(metadata["sampler"], *numbers) if fits else None

    @classmethod
    def of_base(cls, base: str) -> Manner | None:
        """What a base's own table says; None where the base was not distilled."""
        from ..models.latent_diffusion import recommended

        usual = {"steps": LCM_STEPS, "guidance": LCM_GUIDANCE, "teacher_steps": cls.teacher_steps}
        return cls.of({**usual, **recommended(base, "generate")})

    @property
    def options(self) -> dict[str, Any]:
        """The options of `tuner generate`."""
        return {"sampler": self.sampler, "steps": self.steps, "guidance": self.guidance}

    @property
    def told(self) -> dict[str, Any]:
        """All that a whole model's table says of it."""
        return {**self.options, "teacher_steps": self.teacher_steps}

    @property
    def flags(self) -> str:
        """The same as `tuner generate` is told them."""
        return f"--sampler {self.sampler} --steps {self.steps} --guidance {self.guidance:g}"

    @property
    def schedule(self) -> dict[str, Any]:
        """What of the scheduler's configuration is not as the sampler has it by itself."""
        return {"original_inference_steps": self.teacher_steps} if self.sampler == "lcm" else {}

    def metadata(self) -> dict[str, str]:
        """What files say of it, under plain names."""
        numbers = {"steps": str(self.steps), "guidance": f"{self.guidance:g}", "teacher_steps": str(self.teacher_steps)}
        hint = f"sampler {self.sampler}, {self.steps} steps, guidance {self.guidance:g}"
        return {"sampler": self.sampler, **numbers, "usage_hint": hint}

    def pipeline(self, model: LatentDiffusion) -> StableDiffusionPipeline:
        """A pipeline over a model's parts that samples so."""
        pipe = model.pipeline(self.sampler)
        pipe.scheduler.register_to_config(**self.schedule)
        return pipe

    def python(self) -> tuple[str, str, str]:
        """For a script of diffusers: its scheduler, the line that sets it, and what the call is told."""
        kind, changes = SAMPLERS[self.sampler]
        told = "".join(f", {name}={_literal(value)}" for name, value in {**changes, **self.schedule}.items())
        line = f"pipe.scheduler = {kind}.from_config(pipe.scheduler.config{told})"
        return kind, line, f", num_inference_steps={self.steps}, guidance_scale={self.guidance:g}"


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)
