"""Editing what cross-attention makes of words without training: a linear map of the text's states, in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import RequestError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from ..data.pairs import Pair
    from .conditioning import Conditioning
    from .latent_diffusion import LatentDiffusion
    from .shifts import Shift

    Encoded = Callable[[Sequence[str]], Conditioning]


@torch.no_grad()
def solve(
    readers: Sequence[Shift], tokenizer: CLIPTokenizer, told: Encoded, pairs: Sequence[Pair],
    kept: Sequence[Conditioning], hold: float = 1.0,
) -> None:  # fmt: skip
    """Set the shifts of layers that read the text, so that targets' states act as anchors' and those of `kept` stay."""
    change = remapped(*aligned(tokenizer, told, pairs), [one.hidden.flatten(0, 1) for one in kept], hold=hold)
    for one in readers:
        one.difference.copy_(one.weight().float() @ change)


@torch.no_grad()
def aligned(tokenizer: CLIPTokenizer, told: Encoded, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """The states of the targets' words and of all that follows them, and for each what the anchor has in its place.

    The last word of one stands where the last word of the other does, and so do the words after it; what a target has
    more words of stands where the anchor's first word does.

    Args:
        told: gives the states of prompts.

    Returns:
        Two matrices (N, D), a row a token.
    """
    rows = []
    for pair in pairs:
        target, anchor = told([pair.target, pair.anchor]).hidden
        start, *lengths = _lengths(tokenizer, pair)
        longer, shorter = lengths
        places = torch.arange(start + 1, len(target))  # after the token that opens every prompt
        theirs = (places - longer + shorter).clamp(start + 1, len(target) - 1)
        rows.append((target[places], anchor[theirs]))
    return torch.cat([mine for mine, _ in rows]), torch.cat([its for _, its in rows])


def with_room(model: LatentDiffusion, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs whose words a prompt has room for.

    Raises:
        RequestError: a target has none.
    """
    tokenizer = model.tokenizers[0]
    room = tokenizer.model_max_length - 2  # one token opens a prompt, and one ends it
    found = [pair for pair in pairs if (it := _lengths(tokenizer, pair)) and it[0] + max(it[1:]) <= room]
    left = {pair.target_words for pair in pairs} - {pair.target_words for pair in found}
    if left:
        raise RequestError(
            f'--target "{min(left)}": its words and its anchor\'s are too many for a prompt of this base, which has '
            f"{room} tokens; shorten them, or the lines of --prompts."
        )
    return found


def _lengths(tokenizer: CLIPTokenizer, pair: Pair) -> list[int]:
    """Tokens of what stands before the names, and of both of these."""
    texts = pair.before.strip(), pair.target_words, pair.anchor_words
    return [len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts]


def remapped(
    targets: Tensor, anchors: Tensor, kept: Sequence[Tensor], ridge: float = 1e-3, hold: float = 1.0
) -> Tensor:
    """The map M (D, D) by which weights W become W + W M: targets' states act as the anchors' do, others as before.

    Unified concept editing (Gandikota et al. 2024, arXiv:2308.14761, eq. 7) with W taken out of the sum: the same map
    serves every layer. Least squares of the mean |M c - (a - c)|^2 over targets c and anchors a, of hold times the mean
    |M k|^2 over the states k of each set that is kept, and of ridge |M|^2. A small set, the prompts of one anchor, then
    counts as much as a large one.

    Args:
        targets, anchors: (N, D). kept: sets of states, (K, D) each.
    """
    c, a = targets.double(), anchors.double()
    gram = c.T @ c / len(c) + ridge * torch.eye(c.shape[1]).to(c)
    for k in (rows.double() for rows in kept):
        gram += hold * k.T @ k / len(k)
    return torch.linalg.solve(gram, c.T @ (a - c) / len(c)).T.float()
