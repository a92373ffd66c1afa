"""The options of the data. Nothing here needs torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ..config import Options, changed, common, option
from ..errors import RequestError

PANEL = "Pictures and captions"
Condition = Literal["canny", "soft-edge", "gray", "blur", "colour-grid"]
"""What can be computed from a picture, to be drawn after."""


class FolderOptions(Options):
    """The pictures and what they are called."""

    panel: ClassVar[str] = PANEL

    images: str = common("", "Pictures with captions: a folder (.txt files, metadata, kohya's), or a Hub id.", "DIR")
    resolution: int = Field(0, ge=0, description="Side of the training pictures in pixels; 0 is the base's own.")
    buckets: bool = Field(True, description="Buckets by shape; without them pictures are cropped to squares.")
    caption: str = Field("", description="The caption of pictures that have none.")
    trigger: str = Field("", description="A word that is put before every caption.")
    split: str = Field("train", description="The split of a Hub data set.")
    follow_links: bool = Field(False, description="Use symbolic links that lead out of the folder, too.")


class DataOptions(FolderOptions):
    """How training uses them."""

    panel: ClassVar[str] = PANEL

    caption_dropout: float = Field(0.0, ge=0, le=1, description="Share of the examples that train without a caption.")
    cache: str = option(
        "", "Folder of what was encoded before; default $TUNER_CACHE, else ~/.cache/tuner. `none`: no cache.", "DIR"
    )


def without_folder(config: DataOptions, *also: str) -> None:
    """Refuse options of a folder, and others by name, where the base itself draws what is learned from.

    Raises:
        RequestError: one of them is not as it is by itself.
    """
    found = changed(config, *(name for name in FolderOptions.model_fields if name != "images"), *also)
    if found:
        raise RequestError(f"{found[0]} is for a folder of pictures, and here the base draws them; leave it out.")


class PriorOptions(Options):
    """What a base is not to forget while it learns: prior preservation. For recipes whose `data` is `preserving`."""

    class_prompt: list[str] = Field([], description="What the base is not to forget (prior preservation); repeatable.")
    class_images: int = Field(1, ge=1, description="Pictures of each class prompt, drawn by the base before training.")
