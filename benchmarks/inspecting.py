"""How long `tuner inspect` takes over a file of 2 GB, beyond starting up: the header alone is read.

    python benchmarks/inspecting.py

A LoRA of every linear layer of SDXL's attentions, of as high a rank as makes 2 GB in fp16. The file has holes for
tensors, which nobody reads. A tiny file goes before it, so that all is imported.
"""

import contextlib
import io
import json
import struct
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

SIZE = 2 * 10**9  # bytes, about


def written(path: Path, layers: Mapping[str, tuple[int, ...]], rank: int) -> Path:
    """A file with a header for a LoRA of the layers, and a hole behind it."""
    told = {"ss_base_model_version": "sdxl_base_v1-0", "ss_network_dim": str(rank), "ss_network_alpha": str(rank)}
    header: dict[str, object] = {"__metadata__": told}
    end = 0
    for name, (out, width) in layers.items():
        for part, shape in (("lora_down.weight", (rank, width)), ("lora_up.weight", (out, rank)), ("alpha", ())):
            start, end = end, end + 2 * (shape[0] * shape[1] if shape else 1)
            header[f"{name}.{part}"] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def inspected(path: Path) -> float:
    """Seconds of the command, in this process."""
    from tuner.commands import app

    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        app(["inspect", str(path)])
    assert "LoRA" in said.getvalue(), said.getvalue()
    return time.perf_counter() - start


def main() -> None:
    from tuner.adapters.naming import targets
    from tuner.models.architecture import published

    layers = {t.kohya: t.shape for name, t in targets(published("sdxl", "meta")).items() if ".attentions." in name}
    each = sum(2 * sum(shape) for shape in layers.values())  # bytes of a rank
    with tempfile.TemporaryDirectory() as folder:
        inspected(written(Path(folder) / "small.safetensors", dict(list(layers.items())[:4]), 4))
        large = written(Path(folder) / "large.safetensors", layers, SIZE // each)
        seconds = inspected(large)
        print(f"{large.stat().st_size / 1e9:.2f} GB, {3 * len(layers):,} tensors: {seconds:.2f} s beyond starting up")


if __name__ == "__main__":
    main()
