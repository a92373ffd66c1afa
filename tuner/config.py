"""Typed options. A field is declared once; command-line flags, TOML keys, help and model cards all come from it.

Options are grouped in small mixins, each declared beside the module that uses it. The mixin's `panel` is the heading
under which `--help` shows its fields; a field marked `common()` is shown in the first panel instead.
"""

import difflib
import inspect
import json
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from .errors import RequestError

C = TypeVar("C", bound="Options")

# What other toolkits call our options (kohya sd-scripts, the diffusers scripts, OneTrainer): the option, with its value
# where theirs implies one. Of options with | between them the first that a command has is meant.
ELSEWHERE: Mapping[str, str] = {
    "pretrained_model_name_or_path": "base", "model": "base", "base_model": "base", "model_id": "base", "ckpt": "base",
    "train_data_dir": "images", "instance_data_dir": "images", "dataset_name": "images", "data_dir": "images",
    "dataset": "images", "image_dir": "images", "image_folder": "images", "enable_bucket": "buckets",
    "cache_latents": "cache", "cache_latents_to_disk": "cache", "dataset_split": "split", "output_dir": "out",
    "outdir": "out", "output": "out", "logging_dir": "out",
    "output_name": "name", "max_train_steps": "steps", "max_steps": "steps", "max_train_epochs": "steps",
    "num_train_epochs": "steps", "epochs": "steps", "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulate", "lr": "learning_rate", "unet_lr": "learning_rate",
    "text_encoder_lr": "text_learning_rate", "lr_warmup_steps": "warmup_steps", "optimizer_type": "optimizer",
    "use_8bit_adam": "optimizer adamw8bit", "adam_weight_decay": "weight_decay", "mixed_precision": "precision",
    "full_fp16": "precision fp16", "full_bf16": "precision bf16", "max_grad_norm": "clip", "min_snr_gamma": "snr_gamma",
    "v_pred_like_loss": "v_like",
    "use_ema": "ema", "ema_decay": "ema", "network_dim": "rank", "lora_rank": "rank", "lora_r": "rank",
    "network_alpha": "alpha", "lora_alpha": "alpha", "network_weights": "adapter",
    "caption_dropout_rate": "caption_dropout", "proportion_empty_prompts": "prompt_dropout|caption_dropout",
    "instance_prompt": "caption", "num_class_images": "class_images", "trigger_word": "trigger",
    "save_every_n_steps": "save_every", "checkpointing_steps": "save_every", "checkpoints_total_limit": "keep",
    "sample_every_n_steps": "sample_every", "validation_steps": "sample_every", "sample_prompts": "validation_prompt",
    "validation_prompts": "validation_prompt", "resume_from_checkpoint": "resume", "dataloader_num_workers": "threads",
    "conditioning_data_dir": "condition", "controlnet_model_name_or_path": "control",
    "placeholder_token": "token", "initializer_token": "init", "num_vectors": "vectors",
}  # fmt: skip


class Options(BaseModel):
    """A group of options: frozen, unknown keys refused.

    Attributes:
        panel: the heading of its fields in `--help`.
        elsewhere: what other programs call the options, as in `ELSEWHERE`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    panel: ClassVar[str] = "Options"
    elsewhere: ClassVar[Mapping[str, str]] = ELSEWHERE


def option(default: Any, description: str, metavar: str = "", **bounds: Any) -> Any:
    """A field. `metavar` is what `--help` writes for its value, where the type's name says too little (DIR, FILE)."""
    return Field(default, description=description, json_schema_extra={"metavar": metavar}, **bounds)


def changed(config: BaseModel, *names: str) -> list[str]:
    """Those of some options that are not as they are by themselves, as the command line calls them."""
    fields = type(config).model_fields
    return [flag(name) for name in names if getattr(config, name) != fields[name].get_default()]


def needless(config: BaseModel, beside: str, *names: str) -> None:
    """Raise RequestError where one of some options was given, which does nothing beside another; that may be none."""
    for given in changed(config, *names) if beside else ():
        raise RequestError(f"{given} does nothing with {beside}; leave it out.")


def common(default: Any, description: str, metavar: str = "", **bounds: Any) -> Any:
    """A field that most people touch: `--help` shows it first."""
    return Field(default, description=description, json_schema_extra={"common": True, "metavar": metavar}, **bounds)


def argument(description: str, metavar: str) -> Any:
    """A field of several words that are given without a flag. A configuration has one at most."""
    extra = {"argument": True, "metavar": metavar}
    return Field([], description=description, json_schema_extra=extra)  # type: ignore[arg-type]


def said_of(field: FieldInfo, what: str) -> Any:
    """What `option`, `common` or `argument` noted of a field; None where it noted nothing."""
    extra = field.json_schema_extra
    return extra.get(what) if isinstance(extra, Mapping) else None


def panel_of(config: type[Options], name: str, field: FieldInfo) -> str:
    """The heading under which `--help` shows a field: that of the mixin that declares it, or the recipe's own."""
    if said_of(field, "common"):
        return "Options"
    owner = next(cls for cls in reversed(config.__mro__) if name in inspect.get_annotations(cls))
    return owner.__dict__.get("panel", "Method")


def flag(name: str) -> str:
    """`batch_size` -> `--batch-size`; `from_`, which Python does not allow without the line, -> `--from`."""
    return "--" + name.rstrip("_").replace("_", "-")


def nearest(wrong: str, names: Collection[str], elsewhere: Mapping[str, str] = ELSEWHERE, in_file: bool = False) -> str:
    """A sentence's end that leads from a mistyped or foreign name to the right one; empty where nothing is near.

    Args:
        wrong: what was written, as a flag or as a key.
        names: the fields that there are.
        elsewhere: other programs' names for them.
        in_file: write the right one as a TOML key, not as a flag.
    """
    key = wrong.lstrip("-").replace("-", "_").lower()
    for meant in (key, *elsewhere.get(key, "").split("|")):
        name, _, value = meant.partition(" ")
        if name in names:
            return f"; here it is {_written(name, value, in_file)}"
    close = difflib.get_close_matches(key, names, 1, 0.6)
    return f"; did you mean {_written(close[0], '', in_file)}?" if close else ""


def _written(name: str, value: str, in_file: bool) -> str:
    if in_file:
        return f'`{name} = "{value}"`' if value else f"`{name}`"
    return f"{flag(name)} {value}".rstrip()


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


def build(cls: type[C], values: Mapping[str, Any], where: str = "", read: Collection[str] = ()) -> C:
    """Validate values into a configuration. Raises RequestError: one sentence that names the option and the remedy.

    Args:
        cls: the configuration's class.
        values: by field.
        where: the file that some values were read from, as a sentence names it.
        read: the fields that were read from it; the others were given as flags.
    """
    names = list(cls.model_fields)
    for name in values:
        if name not in names:
            end = nearest(name, names, cls.elsewhere, in_file=bool(where)) or "; `--help` lists them"
            raise RequestError(_ended(f"{where or 'The configuration'} has an unknown key `{name}`{end}"))
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        who = f"`{name}` in {where}" if name in read else flag(name)
        raise RequestError(_complaint(first, who if name else "")) from None


# Pydantic's kinds of errors -> what the value must be
MUST_BE = {
    "greater_than_equal": "at least {ge}", "greater_than": "more than {gt}", "less_than_equal": "at most {le}",
    "less_than": "less than {lt}", "int_parsing": "a whole number", "int_type": "a whole number",
    "int_from_float": "a whole number", "float_parsing": "a number", "float_type": "a number",
    "finite_number": "a finite number", "bool_parsing": "true or false", "bool_type": "true or false",
    "string_type": "text", "list_type": "a list",
}  # fmt: skip


def _complaint(error: Mapping[str, Any], who: str) -> str:
    """One of pydantic's errors as a sentence; `who` is the option, or empty where no single one is to blame."""
    kind, given = error["type"], str(error["input"])[:80]
    given = given if given.strip() and given.isprintable() else repr(given)
    if who and kind in MUST_BE:
        bounds = {k: f"{v:.10g}" for k, v in error.get("ctx", {}).items() if isinstance(v, int | float)}
        return f"{who} must be {MUST_BE[kind].format(**bounds)}, not {given}."
    if who and kind == "literal_error":
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        close = difflib.get_close_matches(given, choices, 1, 0.6)
        end = f"; did you mean {close[0]}?" if close else ""
        return _ended(f"{who} must be one of {', '.join(choices)}, not {given}{end}")
    if who and kind == "string_pattern_mismatch":
        return f"{who} {given} holds characters that cannot stand there."
    reason = error["msg"].removeprefix("Value error, ")
    return _ended(f"{who} {given}: {reason[:1].lower()}{reason[1:]}" if who else reason)


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith(("?", ".")) else sentence + "."
