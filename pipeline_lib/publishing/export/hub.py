"""An export on a Hugging Face hub: the directory that passed its parity check, with the model card."""

from __future__ import annotations

from pathlib import Path

from pipeline_lib.core.errors import ConfigError, ServiceError, first_line


def check_push(repository: str) -> None:
    """Raise ConfigError where ``repository`` is no name on a hub, or there is no token to push with."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"--push {repository}: {first_line(error)}") from error
    if get_token() is None:
        raise ConfigError(
            f"--push {repository}: there is no token; set HF_TOKEN, or log in by `hf auth login`"
        )


def push(directory: Path, repository: str, card: Path | None = None, *, public: bool = False) -> str:
    """Upload an export to ``owner/name``, made where it is not there, and return the commit's address.

    A new repository is private unless ``public``; of one that is there nothing changes but its files.
    ``card`` becomes its README.md. The token is `huggingface_hub`'s own (HF_TOKEN, or of ``hf auth login``)
    and appears nowhere. ServiceError where the hub does not answer or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = sorted(path for path in directory.rglob("*") if path.is_file())
    adds = [CommitOperationAdd(path.relative_to(directory).as_posix(), path) for path in files]
    if card is not None:
        adds.append(CommitOperationAdd("README.md", card))
    hub = HfApi()
    try:
        hub.create_repo(repository, private=not public, exist_ok=True)
        message = f"Export of {directory.name}"
        return str(hub.create_commit(repository, adds, commit_message=message).commit_url)
    except Exception as error:  # the hub's errors, httpx's and those of the transfer have no common ancestor
        raise ServiceError(
            f"{repository}: the hub did not take it ({first_line(error)}); "
            f"{directory} is whole: `hf upload {repository} {directory}`, or export again with --force"
        ) from error
