"""Datasets of the Hugging Face hub: their commit, and their files.

An *address* is ``owner/name``, or ``owner/name/folder`` for a part of it. A commit is found without the
network where the revision is one, or where the hub's local cache knows it. The neighbour is ``sources``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pipeline_lib.core.errors import DataError, ServiceError, first_line

_COMMIT = re.compile(r"[0-9a-f]{40}")


def commit(address: str, revision: str | None) -> str:
    """Return the commit (40 hex digits) that a dataset's revision stands for; ServiceError where unknown."""
    wanted = revision or "main"
    if _COMMIT.fullmatch(wanted):
        return wanted
    repository, _ = _split_address(address)
    known = _cache() / f"datasets--{repository.replace('/', '--')}" / "refs" / wanted
    if known.is_file():
        return known.read_text(encoding="utf-8").strip()
    return _asked(repository, wanted)


def download(address: str, revision: str | None) -> Path:
    """Return the local folder with a dataset's files at its commit, fetched where they are not there yet."""
    from huggingface_hub import snapshot_download

    repository, folder = _split_address(address)
    patterns = [f"{folder}/**"] if folder else None
    sha = commit(address, revision)
    try:
        root = Path(snapshot_download(repository, repo_type="dataset", revision=sha, allow_patterns=patterns))
    except Exception as error:  # the HTTP library below the hub's, and so its errors, differ by version
        why = f"{address}@{sha}: cannot be fetched ({first_line(error)})"
        raise ServiceError(f"{why}; check the name, the network and HF_TOKEN") from error
    if folder and not (root / folder).is_dir():
        raise DataError(f"{address}@{sha}: has no folder {folder!r}; check the address")
    return root / folder


def is_of_split(name: str, split: str) -> bool:
    """Say whether a file is of a split, by the words of its path (``data/train-00000-of-00002.parquet``)."""
    return split.lower() in re.split(r"[^a-z0-9]+", name.lower())


def _split_address(address: str) -> tuple[str, str]:
    parts = address.strip("/").split("/")
    return "/".join(parts[:2]), "/".join(parts[2:])


def _cache() -> Path:
    # Read here, as huggingface_hub takes longer to import than all else that an up-to-date run needs.
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache)
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{base}/huggingface")).expanduser() / "hub"


def _asked(repository: str, revision: str) -> str:
    from huggingface_hub import HfApi

    try:
        sha: Any = HfApi().dataset_info(repository, revision=revision, timeout=20).sha
    except Exception as error:  # as above
        raise ServiceError(
            f"{repository}@{revision}: its commit cannot be found ({first_line(error)}); "
            "check the name and the network, or pin revision to a commit"
        ) from error
    return str(sha)
