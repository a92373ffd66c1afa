"""What a picture says it was made with, in the words that A1111 writes into its PNGs and other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shots import Shot, Size

if TYPE_CHECKING:
    from PIL import Image

    from .request import Config

A1111 = {
    "ddpm": "DDPM", "ddim": "DDIM", "dpm++": "DPM++ 2M Karras", "euler": "Euler", "euler-a": "Euler a", "lcm": "LCM",
    "ddim-trailing": "DDIM",
}  # fmt: skip


def parameters(config: Config, shot: Shot, size: Size) -> str:
    """The text of a picture; what is as usual is left out.

    Args:
        config: what was asked for.
        shot: what was drawn.
        size: in pixels, as it was drawn first: before it was enlarged.
    """
    told = {
        "Steps": shot.steps, "Sampler": A1111[config.sampler], "CFG scale": f"{shot.guidance:g}", "Seed": shot.seed,
        "Size": f"{size[0]}x{size[1]}", "Model": Path(config.base).name,
        **_of_pictures(config, shot), **_of_sampling(config), **_of_way(shot),
    }  # fmt: skip
    if config.adapter:
        told["Adapters"] = _quoted(", ".join(Path(text).name for text in config.adapter))
    lines = [shot.prompt, *([f"Negative prompt: {shot.negative}"] if shot.negative else [])]
    return "\n".join([*lines, ", ".join(f"{key}: {value}" for key, value in told.items())])


def _of_pictures(config: Config, shot: Shot) -> dict[str, Any]:
    """The picture to begin from, its mask, and enlarging."""
    told: dict[str, Any] = {}
    if config.upscale:
        from ..models.samplers import taken

        told = {
            "Denoising strength": f"{config.upscale_strength:g}", "Hires upscale": f"{config.upscale:g}",
            "Hires steps": taken(shot.steps, config.upscale_strength), "Hires upscaler": "Lanczos",
        }  # fmt: skip
    for number, text in enumerate(config.control):
        picture = Path(config.control_image[number]).name
        told[f"Control {number + 1}"] = _quoted(f"{text}, {picture}, {config.condition_of(number) or 'given'}")
    if config.control and (config.control_start, config.control_end) != (0, 1):
        told["Control steps"] = f"{config.control_start:g} to {config.control_end:g}"
    if config.image and not config.only_enlarges:
        told["Denoising strength"] = f"{config.leaving:g}"
    if config.mask:
        from .images import SEAM

        told |= {"Mask blur": SEAM, "Mask": _quoted(Path(config.mask).name)}
    return told | ({"Image": _quoted(Path(config.image).name)} if config.image else {})


def _of_sampling(config: Config) -> dict[str, Any]:
    """What was done to the predictions and the steps."""
    told: dict[str, Any] = {}
    if config.eta:
        told["Eta DDIM"] = f"{config.eta:g}"
    if config.guidance_rescale:
        told["CFG Rescale"] = f"{config.guidance_rescale:g}"
    if config.threshold != "none":
        percentile = f" {config.percentile:g}%" if config.threshold == "dynamic" else ""
        told["Threshold"] = f"{config.threshold}{percentile} at {config.threshold_at:g}"
    return told


def _of_way(shot: Shot) -> dict[str, Any]:
    """The other end of the way that the picture lies on."""
    if not shot.towards:
        return {}
    return {"Towards": _quoted(shot.towards[0]), "Towards seed": shot.towards[1], "Share": f"{shot.share:.4g}"}


def write(picture: Image.Image, path: Path, text: str) -> None:
    """Write a PNG that says what it was made with, atomically. Raises OSError."""
    from PIL.PngImagePlugin import PngInfo

    from ..files import replacing

    told = PngInfo()
    told.add_itxt("parameters", text) if not text.isascii() else told.add_text("parameters", text)
    with replacing(path) as part:
        picture.save(part, "PNG", pnginfo=told)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', "'") + '"'
