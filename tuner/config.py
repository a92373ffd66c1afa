"""Typed options. A field is declared once; command-line flags, TOML keys, help and model cards all come from it.

Options are grouped in small mixins, each declared beside the module that uses it. The mixin's `panel` is the heading
under which `--help` shows its fields; a field marked `common()` is shown in the first panel instead.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from .errors import RequestError

C = TypeVar("C", bound="Options")

# What other toolkits call our options (kohya sd-scripts, the diffusers scripts, OneTrainer).
ELSEWHERE = {
    "pretrained_model_name_or_path": "base", "model": "base", "train_data_dir": "images",
    "instance_data_dir": "images", "dataset_name": "images", "output_dir": "out", "logging_dir": "out",
    "output_name": "name", "max_train_steps": "steps", "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulate", "lr": "learning_rate", "unet_lr": "learning_rate",
    "lr_warmup_steps": "warmup_steps", "optimizer_type": "optimizer", "use_8bit_adam": "optimizer",
    "mixed_precision": "precision", "network_dim": "rank", "network_alpha": "alpha", "lora_alpha": "alpha",
    "max_grad_norm": "clip", "save_every_n_steps": "save_every", "checkpointing_steps": "save_every",
    "checkpoints_total_limit": "keep", "sample_every_n_steps": "sample_every", "sample_prompts": "validation_prompt",
    "instance_prompt": "caption", "resume_from_checkpoint": "resume", "validation_prompts": "validation_prompt",
    "num_inference_steps": "sampling_steps", "guidance_scale": "guidance",
}  # fmt: skip


class Options(BaseModel):
    """A group of options: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    panel: ClassVar[str] = "Options"


def common(default: Any, description: str, **bounds: Any) -> Any:
    """A field that most people touch: `--help` shows it first."""
    return Field(default, description=description, json_schema_extra={"common": True}, **bounds)


def panel_of(config: type[Options], name: str, field: FieldInfo) -> str:
    """The heading under which `--help` shows a field: that of the mixin that declares it."""
    extra = field.json_schema_extra
    if isinstance(extra, Mapping) and extra.get("common"):
        return "Options"
    owner = next(cls for cls in reversed(config.__mro__) if name in cls.__dict__.get("__annotations__", {}))
    return getattr(owner, "panel", "Options")


def flag(name: str) -> str:
    """`batch_size` -> `--batch-size`."""
    return "--" + name.replace("_", "-")


def nearest(wrong: str, names: list[str]) -> str:
    """A sentence's end that leads from a mistyped or foreign name to the right one; empty where nothing is near."""
    key = wrong.lstrip("-").replace("-", "_")
    if ELSEWHERE.get(key) in names:
        return f"; here it is {flag(ELSEWHERE[key])}"
    close = difflib.get_close_matches(key, names, 1, 0.6)
    return f"; did you mean {flag(close[0])}?" if close else ""


def read_toml(path: Path) -> dict[str, Any]:
    """The flat keys of a TOML file. Raises RequestError where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"--config {path} cannot be read ({error.strerror}); name a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"--config {path} is not valid TOML: {error}.") from None


def write_toml(values: Mapping[str, Any]) -> str:
    """Flat values as TOML, None left out. JSON's strings, numbers, booleans and arrays are TOML's too."""
    return "".join(f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in values.items() if v is not None)


def build(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """Validate values into a configuration. Raises RequestError: one sentence that names the option and the remedy."""
    names = list(cls.model_fields)
    for name in values:
        if name not in names:
            raise RequestError(f"{where or 'The configuration'} has an unknown key `{name}`{nearest(name, names)}.")
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        option = flag(str(first["loc"][0])) + f" {first['input']}: " if first["loc"] else ""
        raise RequestError(f"{option}{reason[:1].lower() if option else reason[:1]}{reason[1:]}.") from None
