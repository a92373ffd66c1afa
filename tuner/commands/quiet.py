"""The libraries' chatter is turned down here, and only here: by their own settings, before they are imported."""

import logging
import os

SETTINGS = {
    "TRANSFORMERS_VERBOSITY": "error",  # "CLIPImageProcessor requires torchvision", in every process
    "DIFFUSERS_VERBOSITY": "error",  # "modules that should be kept in float32: []"
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers' "Loading weights" obeys it too
    "TOKENIZERS_PARALLELISM": "false",  # no warning when a process is forked
}
LOGGERS = (
    "bitsandbytes.backends.cpu.ops",  # "Failed to load CPU gemm_4bit_forward": a 4-bit kernel for CPUs
    "bitsandbytes.autograd._functions",  # "inputs will be cast from float32 to float16", at every layer
)


def turn_down() -> None:
    """Let libraries speak of errors only. What the user has set in the environment stays as it is."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for logger in LOGGERS:
        logging.getLogger(logger).setLevel(logging.ERROR)
