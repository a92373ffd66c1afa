"""Whether other programs load a learned word's file whole, and the proof of a run's own files.

diffusers is asked itself. What ComfyUI and A1111 do is told from their sources:

- ComfyUI (comfy/sd1_clip.py, `load_embed` and `process_tokens`): a prompt's word `embedding:NAME` names the file. Of
  its tensors it takes, for each text encoder, the one under that encoder's key (`clip_l`, `clip_g`), else the first of
  all; vectors of another width than the encoder's are passed over.
- A1111 (modules/textual_inversion/textual_inversion.py, `create_embedding_from_data` and `load_from_file`): the file's
  name is the word. It takes `clip_l` with `clip_g`, or a file of one tensor under any name; a file whose widths do not
  add up to those of the model is skipped.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import RunError
from ..models.words import Word, forgetting, misfit
from .apply import quiet
from .artifact import Artifact
from .embeddings import PAIR, Embedding, apply
from .proof import picture
from .verify import Landing, Verification

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..models.latent_diffusion import LatentDiffusion

PROGRAMS = ("diffusers", "ComfyUI", "A1111")


def verify_word(path: Path, base: LatentDiffusion) -> Verification:
    """What of a word's file other programs take, in vectors. The base is left as it was.

    Raises:
        RequestError: the file cannot be read, or is not a word's.
    """
    word, tensors = Embedding.load(path).word, Artifact.load(path).tensors
    wrong = misfit(base, word)
    common = [wrong] if wrong else []
    if not any(rows.count_nonzero() for rows in word.vectors):
        common.append("its vectors are all zero")
    found = {
        "diffusers": [] if wrong else _diffusers(path, word, base)[1],
        "ComfyUI": comfyui(path, tensors, base),
        "A1111": a1111(tensors, base),
    }
    total = len(word)
    landings = {
        program: Landing(0 if problems or wrong else total, total, tuple(dict.fromkeys([*common, *problems])))
        for program, problems in found.items()
    }
    return Verification(path, "", frozenset({"word"}), landings, PROGRAMS)


def comfyui(path: Path, tensors: Mapping[str, Tensor], base: LatentDiffusion) -> list[str]:
    """What is wrong with a file in ComfyUI."""
    problems = []
    for key, encoder in zip(PAIR, base.text_encoders, strict=False):
        width = (tensors[key] if key in tensors else next(iter(tensors.values()))).shape[-1]
        if width != encoder.config.hidden_size:
            problems.append(
                f"ComfyUI passes over vectors of width {width}, where the base has {encoder.config.hidden_size}"
            )
    if " " in path.stem:
        problems.append("ComfyUI cannot name a file that has a space in its name")
    return problems


def a1111(tensors: Mapping[str, Tensor], base: LatentDiffusion) -> list[str]:
    """What is wrong with a file in A1111."""
    pair = tensors.keys() >= set(PAIR)
    if not pair and len(tensors) != 1:
        return ["A1111 takes one tensor, or clip_l and clip_g"]
    width = sum(rows.shape[-1] for name, rows in tensors.items() if not pair or name in PAIR)
    wanted = sum(encoder.config.hidden_size for encoder in base.text_encoders)
    return [] if width == wanted else [f"A1111 skips vectors of width {width}, where the base has {wanted}"]


def _diffusers(path: Path, word: Word, base: LatentDiffusion) -> tuple[DiffusionPipeline, list[str]]:
    """A pipeline into which diffusers has loaded a file, beside the base's own parts; and what is wrong there."""
    pipe: Any = base.pipeline("ddim")
    encoders, tokenizers = base.family.encoders, base.family.tokenizers
    for name in (*encoders, *tokenizers):
        setattr(pipe, name, copy.deepcopy(getattr(pipe, name)))
    try:
        for encoder, tokenizer, rows in zip(encoders, tokenizers, word.vectors, strict=True):
            parts = {"text_encoder": getattr(pipe, encoder), "tokenizer": getattr(pipe, tokenizer)}
            with quiet():
                source: Any = str(path) if len(encoders) == 1 else rows
                pipe.load_textual_inversion(source, token=word.token, **parts)
            if not _there(pipe, word, rows, **parts):
                return pipe, [f"diffusers does not find all vectors where a prompt says {word.token}"]
    except Exception as error:  # whatever diffusers raises here, the file is refused
        return pipe, [f"diffusers refuses it ({type(error).__name__}: {' '.join(str(error).split())[:200]})"]
    return pipe, []


def _there(pipe: Any, word: Word, rows: Tensor, text_encoder: Any, tokenizer: Any) -> bool:
    """Whether a prompt that names the word leads to its very vectors."""
    prompt = pipe.maybe_convert_prompt(word.token, tokenizer)
    ids = torch.tensor(tokenizer(prompt, add_special_tokens=False).input_ids, device=text_encoder.device)
    found = text_encoder.get_input_embeddings()(ids)
    return found.shape == rows.shape and torch.equal(found, rows.to(found))


@torch.no_grad()
def prove(embedding: Embedding, paths: list[Path], base: LatentDiffusion) -> list[str]:
    """Load a run's own files into a base without the word; a sentence each proof.

    Raises:
        RunError: a program would take them in part, diffusers draws something else, or taking the word back leaves
            traces.
    """
    word, prompt = embedding.word, f"a {embedding.word.token}"
    found = verify_word(paths[0], base)
    for program, landing in found.landings.items():
        if not landing.whole:
            raise RunError(f"{paths[0]} does not land whole in {program}: {', '.join(landing.problems)}.")
    pipe = base.pipeline("ddim")
    before = picture(pipe, base, prompt)
    with forgetting(pipe):
        apply(pipe, paths[0], 1.0)
        mine = picture(pipe, base, prompt)
    if torch.equal(mine, before):
        raise RunError(f"{paths[0]}: the token changes nothing; train longer, or with a higher --learning-rate.")
    if not torch.equal(picture(pipe, base, prompt), before):
        raise RunError(f"{paths[0]}: taking the token back does not restore the base; report this as a fault.")
    theirs = picture(_diffusers(paths[0], Embedding.load(paths[0]).word, base)[0], base, prompt)
    if not torch.equal(mine, theirs):
        raise RunError(f"{paths[0]}: diffusers draws another picture with it; report this as a fault.")
    count = f"{len(word)} vector{'s' * (len(word) > 1)} of {word.token}"
    return [
        f"{count} land in diffusers, ComfyUI and A1111"
        if len(word) > 1
        else f"{count} lands in diffusers, ComfyUI and A1111",
        "diffusers' own loading gives the same picture",
        "taking the token back restores the base exactly",
        *_pair(embedding, paths[1:], base),
    ]


def _pair(embedding: Embedding, paths: list[Path], base: LatentDiffusion) -> list[str]:
    """The proof of diffusers' pair of files, which SDXL's users may want: each has the first file's vectors."""
    for path, encoder in zip(paths, base.text_encoders, strict=False):
        if Embedding.load(path).word.vectors[0].shape[1] != encoder.config.hidden_size:
            raise RunError(f"{path} holds vectors of another width than its text encoder's; report this as a fault.")
    return ["the pair for diffusers' load_textual_inversion is beside it"] if paths else []
