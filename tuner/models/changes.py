"""What an edit changes of a base: the weights that read the text, a LoRA beside them, the whole U-Net, or words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .layers import add_lora, paths_of
from .shifts import Shift, shift
from .words import Word, own_words, teach

if TYPE_CHECKING:
    from .latent_diffusion import LatentDiffusion

READERS = r".*attn2\.to_[kv]"  # the weights that read the text
REST = paths_of(["attention", "feed-forward", "projections"])  # beside these, in a LoRA
FASTER = 2.0  # than whole weights a LoRA learns
SHIFTED = {
    "lora": READERS,
    "cross-attention": READERS,
    "embedding": "",
    "unet": paths_of(["attention", "feed-forward", "projections", "convolutions"]),
}


class Changes(torch.nn.Module):
    """Shifts of weights and a LoRA of others, in a base's own U-Net, or rows of the embeddings of its text encoders.

    Args:
        train: one of `SHIFTED`.
        rank: of the LoRA, with "lora".
        names: what becomes words with vectors of their own, with "embedding".
    """

    def __init__(self, model: LatentDiffusion, train: str, rank: int, seed: int, names: Sequence[str]) -> None:
        super().__init__()
        if train == "lora":
            add_lora(model.unet, REST, rank, seed, without=READERS)
        self.unet, self.shifts = model.unet, shift(model.unet, SHIFTED[train])
        spelled = names if train == "embedding" else ()
        self.words = [Word(name, tuple(teach(model, own_words(model, name)))) for name in spelled]
        self.rows = torch.nn.ParameterList(rows.requires_grad_(True) for word in self.words for rows in word.vectors)

    @property
    def readers(self) -> list[Shift]:
        """Shifts of the weights that read the text."""
        return [one for path, one in self.shifts.items() if re.fullmatch(READERS, path)]

    def groups(self, rate: float | None) -> list[dict[str, Any]]:
        """The optimizer's parameter groups: a LoRA learns faster, if there is a rate."""
        own = [p for p in (*self.shifts.parameters(), *self.rows) if p.requires_grad]
        known = {id(p) for p in own}
        lora = [p for p in self.unet.parameters() if p.requires_grad and id(p) not in known]
        faster = {} if rate is None else {"lr": FASTER * rate}
        return [{"params": own}, *([{"params": lora, **faster}] if lora else [])]
