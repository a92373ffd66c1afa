"""How to use an adapter's files in other programs, as Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .lora import Lora

_A1111 = {"dora": "A1111 computes DoRA otherwise, so that its pictures differ; ComfyUI and Forge are right."}


def usage(lora: Lora, paths: list[Path], prompt: str) -> str:
    """Lines for diffusers, ComfyUI and A1111.

    Args:
        lora: what was written.
        paths: kohya's file and diffusers'.
        prompt: what to draw with it.
    """
    from ..models.latent_diffusion import BUNDLED

    base = lora.metadata["base"]
    bundled = base in BUNDLED
    source = f"BUNDLED[{json.dumps(base)}]" if bundled else json.dumps(base)
    also = "from tuner.models.latent_diffusion import BUNDLED\n" if bundled else ""
    how = "from_single_file" if base.endswith(".safetensors") else "from_pretrained"
    kohya, diffusers = paths
    a1111 = f"A1111: put `{kohya.name}` into `models/Lora` and write `<lora:{kohya.stem}:1>` in the prompt."
    return (
        f"```python\nfrom diffusers import {lora.pipeline}\n{also}\n"
        f"pipe = {lora.pipeline}.{how}({source})\n"
        f"pipe.load_lora_weights({json.dumps(diffusers.relative_to(kohya.parent).as_posix())})\n"
        f'pipe({json.dumps(prompt)}).images[0].save("picture.png")\n```\n\n'
        f"ComfyUI: put `{kohya.name}` into `models/loras` and choose it in a Load LoRA node.\n\n"
        f"{_A1111.get(lora.variant, a1111)}\n"
    )
