"""Pictures and captions encoded once, by the autoencoder and the text encoders, and kept in the cache."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import RunError
from ..models.conditioning import Conditioning
from . import fingerprints
from .audit import check_enough
from .cache import Cache, key_of
from .pictures import BadPicture
from .rows import Row, Rows
from .sharing import make_missing

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion
    from .source import Source

VERSION = 1  # of how pictures come to their pixels; a change of it makes all entries of the cache new


@dataclass(frozen=True)
class Latent:
    """The moments of a picture, (2C, h, w): in the cache, or made anew."""

    picture: Row
    key: str
    model: LatentDiffusion
    cache: Cache

    @property
    def name(self) -> str:
        return self.picture.name

    def read(self) -> Tensor:
        entry = self.cache.get("latents", self.key)
        return encode([self], [self.picture.read()])[0] if entry is None else entry["moments"]


@torch.no_grad()
def encode(latents: Sequence[Latent], pixels: Sequence[Tensor]) -> Tensor:
    """Encode pictures of one size, uint8 (3, H, W) each, and keep them in the cache: (B, 2C, h, w).

    Raises:
        RunError: the autoencoder gives values that are not finite; the picture is named.
    """
    moments = latents[0].model.encode_images(torch.stack(list(pixels)).float() / 127.5 - 1).cpu()
    for latent, one in zip(latents, moments, strict=True):
        if not one.isfinite().all():
            raise RunError(
                f"The base's autoencoder gives values that are not finite for {latent.name}; it may need fp32 weights."
            )
        latent.cache.put("latents", latent.key, {"moments": one})
    return moments


def with_latents(source: Source, model: LatentDiffusion) -> Source:
    """The source with its pictures encoded, once, as the moments of the autoencoder's posterior.

    Pictures that turn out to be broken are left out.

    Raises:
        RunError: too many are broken, or the autoencoder gives values that are not finite.
    """
    assert source.pixels is not None and source.sizes is not None
    cache, made_by = source.cache, (VERSION, fingerprints.weights(model.vae))
    latents = [Latent(row, key_of("latents", *made_by, row.key), model, cache) for row in source.pixels.rows]
    targets = dict(zip((latent.key for latent in latents), map(tuple, source.sizes[:, 4:].tolist()), strict=True))
    moments, broken = Rows(latents), set[str]()

    def there(latent: Latent) -> bool:
        """Whether it was made before: read and kept while there is room, then only looked up."""
        if moments.knows(latent.key) or latent.key in broken:
            return True
        if moments.full:
            return cache.has("latents", latent.key)
        entry = cache.get("latents", latent.key)
        if entry is not None:
            moments.keep(latent.key, entry["moments"])
        return entry is not None

    def work(part: list[Latent]) -> None:
        good, pixels = [], []
        for latent in part:
            try:
                pixels.append(latent.picture.read())
                good.append(latent)
            except BadPicture:
                broken.add(latent.key)
        for latent, one in zip(good, encode(good, pixels) if good else (), strict=True):
            moments.keep(latent.key, one.clone(), always=not cache.works)

    different = list({latent.key: latent for latent in latents}.values())
    make_missing(cache, "encoding picture", different, there, work, lambda latent: targets[latent.key])
    good = [i for i, latent in enumerate(latents) if latent.key not in broken]
    source = _without(source, good)
    return replace(source, pixels=None, moments=moments.only(good), notes=_notes(source))


def with_pixels(source: Source) -> Source:
    """The source with every picture decoded once, kept in memory where there is room; broken ones are left out.

    Raises:
        RunError: too many are broken.
    """
    assert source.pixels is not None
    good = []
    for number in range(len(source)):
        with contextlib.suppress(BadPicture):
            source.pixels[number]
            good.append(number)
    return _without(source, good)


@torch.no_grad()
def with_prompts(source: Source, model: LatentDiffusion) -> Source:
    """The source with its different captions encoded, once."""
    texts = list(dict.fromkeys([*source.captions, ""]))
    made_by, known = fingerprints.prompts(model), dict[str, Conditioning]()
    keys = {text: key_of("prompts", made_by, text) for text in texts}

    def there(text: str) -> bool:
        entry = None if text in known else source.cache.get("prompts", keys[text])
        if entry is not None:
            known[text] = Conditioning(entry["hidden"][None], entry["pooled"][None] if "pooled" in entry else None)
        return text in known

    def work(part: list[str]) -> None:
        told = model.encode_prompts(part).to("cpu")
        for number, text in enumerate(part):
            known[text] = one = told[number : number + 1]
            pooled = {} if one.pooled is None else {"pooled": one.pooled[0]}
            source.cache.put("prompts", keys[text], {"hidden": one.hidden[0], **pooled})

    make_missing(source.cache, "encoding caption", texts, there, work)
    number = {text: i for i, text in enumerate(texts)}
    rows = torch.tensor([number[caption] for caption in source.captions])
    conditioning = Conditioning.cat([known[text] for text in texts])
    return replace(source, conditioning=conditioning, rows=rows, empty=known[""], notes=_notes(source))


def _without(source: Source, good: Sequence[int]) -> Source:
    """The source without its broken pictures. Raises RunError, RequestError where too few are left."""
    assert source.pixels is not None
    left, reasons = set(range(len(source))) - set(good), []
    if not left:
        return source
    for number in sorted(left):
        try:
            source.pixels.rows[number].read()
        except BadPicture as error:
            reasons.append(str(error))
    made = source.only(good, reasons)
    check_enough(len(made), made.skipped)
    return made


def _notes(source: Source) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*source.notes, *source.cache.notes]))
