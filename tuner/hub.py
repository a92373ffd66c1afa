"""Sending a run's folder to the Hugging Face Hub (`--push-to-hub`)."""

from __future__ import annotations

from pathlib import Path

from .errors import RequestError, RunError

KEPT_HERE = ["checkpoints/*", "logs/*", ".*"]
"""What is not sent: what only resuming needs, the trackers' files, the lock."""


def check(repository: str) -> None:
    """See, before anything is trained, that the result can be sent; asks nothing of the network.

    Raises:
        RequestError: the id is not one, the Hub is switched off, or there is no token.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
        whole = repository.count("/") == 1
    except HFValidationError:
        whole = False
    if not whole:
        raise RequestError(
            f"--push-to-hub {repository} is not the id of a repository; write OWNER/NAME, of letters, digits, - _ and ."
        )
    if constants.HF_HUB_OFFLINE:
        raise RequestError("--push-to-hub needs the Hub, and HF_HUB_OFFLINE is set; unset one of the two.")
    if get_token() is None:
        raise RequestError("--push-to-hub needs a token of the Hub; run `hf auth login`, or set HF_TOKEN.")


def push(folder: Path, repository: str) -> str:
    """Send a run's folder, without its checkpoints and logs; the address of what is there then.

    The repository is made where there is none, as public or private as the account's own default is.

    Raises:
        RunError: it could not be sent; the folder is whole, and the sentence says how to go on.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        made = api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, ignore_patterns=KEPT_HERE, commit_message=f"Upload {folder.name}"
        )
    except Exception as error:  # a refusal, no network, a broken connection: each has classes of its own
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise RunError(
            f"The result is safe in {folder}, but it could not be sent to {repository} ({reason}); try again with "
            f"--resume --out {folder} --push-to-hub {repository}."
        ) from error
    return str(made)
