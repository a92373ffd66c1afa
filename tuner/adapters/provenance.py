"""What adapter files say of their origin: whether they go together, and what a file made of them says in its turn."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.pairs import ERASES, noted, read
from ..errors import RequestError
from ..models.family import FAMILIES
from ..sampling.manner import Manner
from . import header
from .ground import Ground
from .signs import predicts, told
from .source import Source

_BASE = ("tuner.base", "ss_new_sd_model_hash", "ss_sd_model_hash", "ss_sd_model_name")
_JOINED = ("trigger_phrase", "author", "license", "tags")  # of the ModelSpec: those of all files, one after the other
_MADE_ANEW = ("was", "dora_norm", "rank", "energy", "density")  # or no longer true
_RESOLUTIONS = {"sd1": "512x512", "sd2": "768x768", "sdxl": "1024x1024"}


def check(sources: Sequence[Source]) -> list[str]:
    """A sentence for each thing to know about files that are merged.

    Raises:
        RequestError: they are for different families, or for models that predict different things.
    """
    titles = {name: family.title for name, family in FAMILIES.items()}
    _same(sources, [titles.get(source.family, "") for source in sources], "is for")
    predictions = [predicts(source.metadata).removesuffix("_prediction") for source in sources]
    _same(sources, predictions, "is for a model that predicts")
    notes = []
    for key in _BASE:
        bases = {source.metadata[key]: source for source in sources if source.metadata.get(key)}
        if len(bases) > 1:
            words = " and ".join(f"{source.path.name} on {base[:60]}" for base, source in list(bases.items())[:2])
            notes.append(f"They were made on different bases of one family: {words}.")
            break
    return notes


def _same(sources: Sequence[Source], said: Sequence[str], words: str) -> None:
    known = {what: source for what, source in zip(said, sources, strict=True) if what}
    if len(known) > 1:
        (one, first), (other, second) = list(known.items())[:2]
        raise RequestError(
            f"{first.path} {words} {one}, {second.path} {words} {other}; merge adapters of one kind of base."
        )


def facts(sources: Sequence[Source], ground: Ground) -> dict[str, str]:
    """What the files say of the base, under plain names (see `header`), filled up from their family.

    Raises:
        RequestError: they do not say enough, and the base is not known.
    """
    said: dict[str, str] = {}
    for source in reversed(sources):
        said |= header.plain(source.metadata)
    family = next((source.family or told(source.metadata) for source in sources if source.family), "") or ground.family
    prediction = next((found for source in sources if (found := predicts(source.metadata))), "")
    prediction = prediction if prediction in FAMILIES[family].architectures else _asked(family, sources, ground)
    kept = {key: said[key] for key in ("resolution", "base") if said.get(key)}
    return {
        "resolution": _RESOLUTIONS[family], **kept, "prediction_type": prediction,
        "architecture": FAMILIES[family].architectures[prediction],
        "kohya_version": FAMILIES[family].versions[prediction], "version": __version__,
    }  # fmt: skip


def _asked(family: str, sources: Sequence[Source], ground: Ground) -> str:
    """What the base predicts, where no header says it."""
    if ground.known:
        return ground.model.prediction_type
    if len(set(FAMILIES[family].versions.values())) > 1:
        raise RequestError(
            f"{sources[0].path} does not say whether its {FAMILIES[family].title} predicts noise or v; name the model "
            "that it was made for by --base."
        )
    return "epsilon"


def of_merge(sources: Sequence[Source], ground: Ground, made: Mapping[str, Any], out: Path) -> dict[str, str]:
    """The metadata of a file made of one, whose own is kept, or of several. How a distilled one is drawn with stays.

    Args:
        made: how: the method and its settings.
        out: the file.
    """
    plain = [header.plain(source.metadata) for source in sources]
    kept = {key: value for key, value in plain[0].items() if key not in _MADE_ANEW} if len(plain) == 1 else {}
    way = drawn_with(sources)
    joined = {key: ", ".join(_each(said.get(key, "") for said in plain)) for key in _JOINED}
    return {
        **kept, **(way.metadata() if way else {}), **facts(sources, ground),
        **{key: value for key, value in joined.items() if value}, **_erased(plain),
        "title": kept.get("title", out.stem), "output_name": out.stem, **origin(sources, made),
    }  # fmt: skip


def _erased(plain: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What files take out, all together; nothing where that is of several kinds, or none says it."""
    try:
        found = [read(note) for said in plain if (note := said.get(ERASES))]
    except ValueError:
        return {}
    kinds = {kind for _, kind in found}
    return {ERASES: noted([it for its, _ in found for it in its], kinds.pop())} if len(kinds) == 1 else {}


def drawn_with(sources: Sequence[Source], into: str = "") -> Manner | None:
    """How what is made of files, and of a base, is to be drawn with: as the first of them says that was distilled."""
    said = (Manner.of(header.plain(source.metadata)) for source in sources)
    return next((found for found in said if found), None) or (Manner.of_base(into) if into else None)


def origin(sources: Sequence[Source], made: Mapping[str, Any]) -> dict[str, str]:
    """Only what says of which files it was made, and how."""
    titles = [header.plain(source.metadata).get("title") or source.path.stem for source in sources]
    settings = {key: value if isinstance(value, str) else json.dumps(value) for key, value in made.items()}
    return {"merged_from": ", ".join(titles), **settings}


def _each(values: Iterable[str]) -> list[str]:
    """Without empty ones, and without what stands there before."""
    return list(dict.fromkeys(value for value in values if value))
