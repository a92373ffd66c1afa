"""The options of `tuner generate` that belong to one way of sampling each. Importing this imports neither torch nor
diffusers."""

from __future__ import annotations

from typing import ClassVar, Literal

from ..config import Options, option
from ..data.options import Condition


class SamplingOptions(Options):
    """What is done to each prediction of the model, and to each step."""

    panel: ClassVar[str] = "Guidance and sampling"

    eta: float = option(0.0, "With ddim: noise added at each step; 0 is none, 1 as much as ddpm adds.", ge=0, le=1)
    guidance_rescale: float = option(
        0.0, "Bring guided predictions back to the deviation of unguided ones, from 0 (not) to 1 (all).", ge=0, le=1
    )
    threshold: Literal["none", "static", "dynamic"] = option(
        "none", "Clip what each step takes for the finished picture: at a fixed size, or at its own percentile."
    )
    percentile: float = option(99.5, "Of --threshold dynamic, in percent of the latent's values.", ge=50, le=100)
    threshold_at: float = option(
        3.0, "Where --threshold begins, in deviations of the latents; those of real pictures end there.", gt=0
    )


class SizeOptions(Options):
    """Other prompts and sizes than those of the command line's first words."""

    panel: ClassVar[str] = "Prompts and sizes"

    prompts: str = option("", "Text file, a prompt a line; # comments; --n --w --h --d --l --s as in kohya's.", "FILE")
    width: int = option(0, "Width in pixels; 0 is --resolution.", ge=0)
    height: int = option(0, "Height in pixels; 0 is --resolution.", ge=0)


class SourceOptions(Options):
    """Drawing that begins from a picture."""

    panel: ClassVar[str] = "From a picture"

    image: str = option("", "Picture to begin from.", "FILE")
    mask: str = option("", "Picture of the same size: white is painted anew, the rest stays as it is.", "FILE")
    strength: float | None = option(
        None, "How far to leave the picture: 0 not at all, 1 altogether; by default 0.6, with a mask 1.", gt=0, le=1
    )


class ControlOptions(Options):
    """Drawing that is steered by pictures."""

    panel: ClassVar[str] = "Steered by pictures"

    control: list[str] = option(
        [], "A control network (ControlNet, T2I-Adapter), at a weight (1); may be repeated.", "DIR[:WEIGHT]"
    )
    control_image: list[str] = option([], "The picture that it is given; one for each --control, in order.", "FILE")
    control_condition: list[Literal[Condition, "given"]] = option(
        [], "What is computed from the picture first; one for all, or one each. By default it is given as it is."
    )
    control_start: float = option(0.0, "Share of the steps after which the control begins.", ge=0, le=1)
    control_end: float = option(1.0, "Share of the steps after which it ends.", ge=0, le=1)


class UpscaleOptions(Options):
    """Enlarging."""

    panel: ClassVar[str] = "Enlarging"

    upscale: float = option(0.0, "Enlarge so many times and redraw the detail; --image alone is enlarged.", ge=0, le=16)
    upscale_strength: float = option(0.3, "How far the redrawing may leave the enlarged picture.", gt=0, le=1)


class BetweenOptions(Options):
    """A walk from one picture to another."""

    panel: ClassVar[str] = "Between two pictures"

    interpolate: int = option(0, "Pictures on the way from the first of two prompts or seeds to the second.", ge=0)
    seed_to: int | None = option(None, "Seed at the end of the way; by default --seed.", ge=0, lt=2**63)


class PrecisionOptions(Options):
    """What the weights are held in."""

    panel: ClassVar[str] = "Memory"

    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "Of the weights, the autoencoder's aside; auto is half precision on a GPU, fp32 on a CPU."
    )
