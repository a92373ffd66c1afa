"""Examples for recipes that need no pictures of the user's: a folder, or else prompts, which the base itself draws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ..config import Options, common
from ..errors import RequestError
from ..sampling.prompt_files import read_prompts
from .options import PANEL
from .source import Source, drawn, encoded, with_prompts

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion


class PromptOptions(Options):
    """What is learned from where `--images` names no folder."""

    panel: ClassVar[str] = PANEL

    prompt: list[str] = common([], "A prompt to learn from, which the base draws; repeatable.", "TEXT")
    prompts: str = common("", "Text file of such prompts, one a line.", "FILE")
    prompt_images: int = Field(1, ge=1, description="Pictures of each prompt, drawn by the base before training.")


def prompts_of(config: Any) -> list[str]:
    """The different prompts that the options name.

    Raises:
        RequestError: their file cannot be read, holds none or has flags, they stand beside a folder, or there is
            neither.
    """
    lines = read_prompts(Path(config.prompts)) if config.prompts else []
    for line in lines:
        if line.values:
            raise RequestError(f"{line.where}: flags are for `tuner generate`; here a line is a prompt and no more.")
    found = list(dict.fromkeys([*config.prompt, *(line.prompt for line in lines)]))
    if bool(config.images) == bool(found):
        what = "Both pictures and prompts are" if found else "There is nothing to learn from that is"
        raise RequestError(f"{what} named; name either --images, or --prompt and --prompts.")
    return found


def prompted(config: Any, model: LatentDiffusion) -> Source:
    """The folder's pictures, or those that the model draws of the prompts, with latents and prompts encoded."""
    if config.images:
        return encoded(config, model)
    return with_prompts(drawn(config, model, prompts_of(config), config.prompt_images), model)
