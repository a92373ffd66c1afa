"""Whether other programs load an adapter file whole: loaded in diffusers, compared with what ComfyUI and A1111 match.

diffusers is asked itself: the file is loaded as its users load it, and every live layer is compared with the file. What
ComfyUI and A1111 do is modelled (see `loaders` and `rules`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .apply import attach, landed, weights
from .artifact import Artifact
from .embeddings import is_embedding
from .reading import Reading, read
from .rules import a1111, a1111_dotted, comfyui, comfyui_dotted

if TYPE_CHECKING:
    from ..models.latent_diffusion import LatentDiffusion

ADAPTER = "verified"


@dataclass(frozen=True)
class Landing:
    """What of a file a program takes.

    Attributes:
        landed, total: modules, or vectors of a word, that get exactly what the file says, of those that it names.
        problems: a clause each.
    """

    landed: int
    total: int
    problems: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return self.landed == self.total > 0 and not self.problems


@dataclass(frozen=True)
class Verification:
    """What of an adapter file diffusers, ComfyUI and A1111 take.

    Attributes:
        path: the file.
        naming: `kohya` or `diffusers`; empty for a word's file.
        kinds: the kinds of its changes: `lora`, `dora`, `loha`, `lokr`, `full`; or `word`.
        landings: by program.
        meant: the programs that files of this naming and kind are for.
    """

    path: Path
    naming: str
    kinds: frozenset[str]
    landings: Mapping[str, Landing]
    meant: tuple[str, ...]

    @property
    def programs(self) -> dict[str, Landing]:
        """Those that the file is for."""
        return {program: self.landings[program] for program in self.meant}

    @property
    def whole(self) -> bool:
        """Whether every program that the file is for takes all of it."""
        return all(landing.whole for landing in self.programs.values())


def meant_for(naming: str, kinds: frozenset[str]) -> tuple[str, ...]:
    """The programs that a file is for: each program's own naming, and the kinds of changes that it computes rightly."""
    if naming == "diffusers":
        return ("diffusers",)
    found = ["ComfyUI"]
    found += ["A1111"] if "dora" not in kinds else []
    found += ["diffusers"] if kinds <= {"lora"} else []
    return tuple(sorted(found, key=["diffusers", "ComfyUI", "A1111"].index))


def verify(path: Path, base: LatentDiffusion) -> Verification:
    """Load an adapter file into a base that has none, and say what lands. The base is left as it was.

    Raises:
        RequestError: the file cannot be read, holds values that are not finite, or is not an adapter.
    """
    if is_embedding(path):
        from .embedding_proof import verify_word

        return verify_word(path, base)
    artifact = Artifact.load(path)
    reading = read(artifact, base, path)
    common = list(reading.problems)
    if reading.changes and all(change.empty for change in reading.changes.values()):
        common.append("the adapter changes nothing: all its products are zero")
    kohya = reading.naming == "kohya"
    found = {
        "diffusers": _diffusers(path, reading, base),
        "ComfyUI": comfyui(reading, base, artifact.metadata) if kohya else comfyui_dotted(reading, base),
        "A1111": a1111(reading, base) if kohya else a1111_dotted(),
    }
    total, kinds = len(reading.modules), _kinds(reading)
    landings = {program: Landing(n, total, (*common, *problems)) for program, (n, problems) in found.items()}
    return Verification(path, reading.naming, kinds, landings, meant_for(reading.naming, kinds))


def _kinds(reading: Reading) -> frozenset[str]:
    """The kinds of the changes; DoRA goes by its tensors, as one over columns is read as a whole difference."""
    told = {name: group for module, group in reading.tensors.items() if (name := reading.modules[module])}
    return frozenset("dora" if "dora_scale" in told[name] else c.kind for name, c in reading.changes.items())


def _diffusers(path: Path, reading: Reading, base: LatentDiffusion) -> tuple[int, list[str]]:
    """Modules that land in diffusers, and what is wrong there."""
    pipe = base.pipeline()
    if weights(pipe):
        raise ValueError("verify needs a base without adapters")
    kinds = _kinds(reading)
    if reading.naming == "kohya" and kinds and not kinds <= {"lora"}:
        words = {"dora": "DoRA's `dora_scale`", "loha": "LoHa", "lokr": "LoKr", "full": "whole differences (`.diff`)"}
        told = " and ".join(words[kind] for kind in sorted(kinds & words.keys()))
        return 0, [f"diffusers does not take {told} under kohya's names; give it a file in its own naming"]
    try:
        attach(pipe, path, ADAPTER)
        there = landed(pipe, reading.changes, ADAPTER)
    except Exception as error:  # whatever diffusers or peft raises here, the file is refused
        return 0, [f"diffusers refuses it ({type(error).__name__}: {' '.join(str(error).split())[:200]})"]
    finally:
        pipe.unload_lora_weights()
    lost = [name for name in reading.changes if name not in there]
    return len(there), [f"`{name}` has other values in diffusers than in the file" for name in lost]
