"""How to use an adapter's files in other programs, as Markdown."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.family import FAMILIES
from ..sampling.manner import Manner

if TYPE_CHECKING:
    from .embeddings import Embedding
    from .lora import Lora

_A1111 = {"dora": "A1111 computes DoRA otherwise, so that its pictures differ; ComfyUI and Forge are right."}

_NAMES = {"lcm": ("lcm", "LCM"), "ddim-trailing": ("ddim", "DDIM with the schedule SGM Uniform")}


def usage(lora: Lora, paths: list[Path], prompt: str) -> str:
    """Lines for diffusers, ComfyUI and A1111.

    Args:
        lora: what was written.
        paths: kohya's file and diffusers'.
        prompt: what to draw with it.
    """
    kohya, diffusers = paths
    a1111 = f"A1111: put `{kohya.name}` into `models/Lora` and write `<lora:{kohya.stem}:1>` in the prompt."
    load = f"pipe.load_lora_weights({json.dumps(diffusers.relative_to(kohya.parent).as_posix())})"
    return (
        f"{_script(lora.metadata, [load], prompt)}\n"
        f"ComfyUI: put `{kohya.name}` into `models/loras` and choose it in a Load LoRA node.\n\n"
        f"{_A1111.get(lora.variant, a1111)}\n"
        f"{_elsewhere(lora.metadata)}"
    )


def of_word(embedding: Embedding, paths: list[Path], prompt: str) -> str:
    """Lines for diffusers, ComfyUI and A1111.

    Args:
        embedding: what was written.
        paths: the file, and diffusers' pair where there is one.
        prompt: what to draw with it.
    """
    file, token = paths[0], embedding.word.token
    load = [f"pipe.load_textual_inversion({json.dumps(file.name)})"]
    for path, end in zip(paths[1:], ("", "_2"), strict=False):
        named = json.dumps(path.relative_to(file.parent).as_posix())
        parts = f"text_encoder=pipe.text_encoder{end}, tokenizer=pipe.tokenizer{end}"
        load = [*(load if end else []), f"pipe.load_textual_inversion({named}, {parts})"]
    return (
        f"{_script(embedding.metadata, load, prompt)}\n"
        f"Prompts call it `{token}`.\n\n"
        f"ComfyUI: put `{file.name}` into `models/embeddings` and write `embedding:{file.stem}` in the prompt.\n\n"
        f"A1111: put `{file.name}` into `embeddings` and write `{file.stem}` in the prompt.\n"
    )


def _script(metadata: Mapping[str, str], load: list[str], prompt: str) -> str:
    """Python that draws with diffusers; `load` are the lines that load what was written."""
    from ..models.latent_diffusion import BUNDLED

    base, kind = metadata["base"], pipeline_of(metadata)
    bundled = base in BUNDLED
    source = f"BUNDLED[{json.dumps(base)}]" if bundled else json.dumps(base)
    also = "from tuner.models.latent_diffusion import BUNDLED\n" if bundled else ""
    how = "from_single_file" if base.endswith(".safetensors") else "from_pretrained"
    manner = Manner.of(metadata)
    scheduler, line, told = manner.python() if manner else ("", "", "")
    names = ", ".join(sorted(filter(None, (kind, scheduler))))
    lines = "".join(f"{line}\n" for line in [*load, line] if line)
    return (
        f"```python\nfrom diffusers import {names}\n{also}\n"
        f"pipe = {kind}.{how}({source})\n{lines}"
        f'pipe({json.dumps(prompt)}{told}).images[0].save("picture.png")\n```\n'
    )


def _elsewhere(metadata: Mapping[str, str]) -> str:
    """How other programs draw with what was distilled."""
    manner = Manner.of(metadata)
    if manner is None:
        return ""
    names = _NAMES[manner.sampler]
    return (
        f"\nIn both, {manner.steps} steps at CFG {manner.guidance:g}: in ComfyUI by the sampler `{names[0]}` with the "
        f"scheduler `sgm_uniform`, in A1111 by {names[1]}.\n"
    )


def pipeline_of(metadata: Mapping[str, str]) -> str:
    """diffusers' pipeline for the family that a file was made for."""
    said = metadata["architecture"]
    return next(f.pipeline for f in FAMILIES.values() if said in f.architectures.values())


def flags(path: Path, base: str, metadata: Mapping[str, str] | None = None) -> str:
    """What `tuner generate` is told to draw with an adapter's file that says this of itself."""
    from ..run import RunOptions

    elsewhere = "" if base == RunOptions.model_fields["base"].default else f" --base {shlex.quote(base)}"
    manner = Manner.of(metadata or {})
    return f"--adapter {shlex.quote(str(path))}{elsewhere}{f' {manner.flags}' if manner else ''}"
