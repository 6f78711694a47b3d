"""Who builds, with what: facts for manifests that enter no hash."""

from __future__ import annotations

import hashlib
import platform
import socket
import subprocess
import sys
from contextvars import ContextVar
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "pyarrow",
    "numpy",
    "mlflow",
    "prefect",
)

shown_at: ContextVar[str | None] = ContextVar("shown_at", default=None)
"""Where a browser shows the orchestrator's run that is building; None where nothing shows it."""


@lru_cache(maxsize=1)
def describe_machine() -> dict[str, Any]:
    """Return git commit, package versions, command and host of this process."""
    return {
        "git_commit": git_commit(),
        "packages": {"python": platform.python_version(), **dict(_versions())},
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "host": socket.gethostname(),
    }


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a hash of this library's source, the interpreter and the packages that stand beside it."""
    root = Path(__file__).resolve().parents[1]
    sha = hashlib.sha256(sys.version.encode())
    for path in sorted(root.rglob("*.py")):
        sha.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    for place in filter(None, sys.path):
        sha.update("".join(sorted(found.name for found in Path(place).glob("*.dist-info"))).encode())
    return sha.hexdigest()


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of the project's checkout, with ``+`` where files differ; None outside git."""
    root = Path(__file__).resolve().parents[2]
    try:
        head = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip()
