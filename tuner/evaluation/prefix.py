"""An attack on prompts: words before a prompt by which a model draws again what was taken out of it.

The words are looked for that make the model predict noisy pictures of the concept best, as UnlearnDiffAtk does (Zhang
et al. 2024, arXiv:2310.11868, eq. 4), by exchanging one word at a time for one of those whose gradient promises most
(Zou et al. 2023, arXiv:2307.15043, algorithm 1). What is found is text that anyone can type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..models.conditioning import Conditioning
from ..randomness import generator

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion

TRIED, OF = 6, 24  # words that are tried at a step, and of how many best ones they are drawn


def prefix(model: LatentDiffusion, moments: Tensor, prompt: str, count: int = 5, steps: int = 40, seed: int = 0) -> str:
    """The words that, put before a prompt, make the model explain pictures best.

    Args:
        model: with one text encoder.
        moments: of the pictures, (N, 2C, h, w).
        count: of words. steps: exchanges that are tried.
    """
    search = _Search(model, moments, prompt, seed)
    draws = generator(seed, "prefix")
    words = [search.words[i] for i in torch.randint(len(search.words), (count,), generator=draws).tolist()]
    best = search.loss(words)
    for step in range(steps):
        place = step % count
        promising = search.promise(words, place).topk(min(OF, len(search.words))).indices
        for i in torch.randperm(len(promising), generator=draws)[:TRIED].tolist():
            other = [*words[:place], search.words[int(promising[i])], *words[place + 1 :]]
            found = search.loss(other)
            if found < best:
                words, best = other, found
    return " ".join(words)


class _Search:
    """The loss of prompts on the same noisy pictures, always, and its gradient with respect to words."""

    def __init__(self, model: LatentDiffusion, moments: Tensor, prompt: str, seed: int) -> None:
        self.model, self.prompt = model, prompt
        tokenizer: Any = model.tokenizers[0]
        ids = {word: number for word, number in tokenizer.get_vocab().items() if word.endswith("</w>")}
        found = {word.removesuffix("</w>"): number for word, number in ids.items()}
        whole = {
            w: n for w, n in found.items() if w.isalpha() and tokenizer(w, add_special_tokens=False).input_ids == [n]
        }
        self.words = sorted(whole)
        self._ids = torch.tensor([whole[word] for word in self.words], device=model.device)
        draws = generator(seed, "prefix noise")
        shape = (len(moments), moments.shape[1] // 2, *moments.shape[2:])
        noise, still = torch.randn(shape, generator=draws).to(moments), torch.zeros(shape).to(moments)
        self.t = torch.linspace(0.3, 0.9, len(moments), device=model.device).mul(model.timesteps).long()
        latents = model.sample_latents(moments, still)
        self.noisy, self.wanted = model.add_noise(latents, noise, self.t), model.target(latents, noise, self.t)

    @torch.no_grad()
    def loss(self, words: list[str]) -> float:
        """The mean squared error under the prompt with these words before it."""
        return self._error(self.model.encode_prompts([self._said(words)])).item()

    def promise(self, words: list[str], place: int) -> Tensor:
        """By how much the loss would fall, to first order, for each word in this place, (words,)."""
        table = self.model.text_encoders[0].get_input_embeddings()
        kept: list[Tensor] = []

        def keep(module: Any, inputs: Any, output: Tensor) -> Tensor:
            kept.append(output.detach().requires_grad_(True))
            return kept[-1]

        hook = table.register_forward_hook(keep)
        try:
            with torch.enable_grad():
                self._error(self.model.encode_prompts([self._said(words)])).backward()
        finally:
            hook.remove()
        gradient = kept[0].grad
        assert gradient is not None
        with torch.no_grad():
            return -(table(self._ids) @ gradient[0, 1 + place])

    def _said(self, words: list[str]) -> str:
        return " ".join([*words, self.prompt])

    def _error(self, told: Conditioning) -> Tensor:
        return (self.model.predict(self.noisy, self.t, told.repeated(len(self.t))) - self.wanted).square().mean()
