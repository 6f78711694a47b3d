"""The manifest: how an artifact came to be, written last. No manifest, no artifact."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline_lib.core.errors import StoreError, first_line
from pipeline_lib.core.fingerprint import digest_entries, digest_file

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1


class InputRef(BaseModel):
    """One input of a stage: where it stood and the digest of its content."""

    model_config = ConfigDict(frozen=True)

    address: str = Field(description="Place in the store, or what the input is where it comes from outside.")
    digest: str = Field(description="Hash of the content; this enters the fingerprint.")


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True)

    path: str
    bytes: int
    sha256: str


class Provenance(BaseModel):
    """Who built an artifact, with what, and what it cost; none of it enters any hash."""

    git_commit: str | None = None
    packages: dict[str, str] = {}
    command: str = ""
    host: str = ""
    started: str = ""
    seconds: float = 0.0
    peak_memory_mb: float = 0.0


class Manifest(BaseModel):
    """The record beside every artifact."""

    schema_version: int = SCHEMA_VERSION
    stage: str
    version: int
    kind: str
    fingerprint: str
    digest: str
    code: str = Field(description="Hash of the stage module's syntax tree when this was built.")
    config: dict[str, Any]
    inputs: dict[str, InputRef]
    files: list[FileEntry]
    stats: dict[str, Any] = {}
    target: str | None = Field(
        default=None, description="The place outside the store that the stage wrote to."
    )
    provenance: Provenance = Provenance()

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Return the manifest at ``path``; StoreError where it cannot be read."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StoreError(
                f"{path}: not a readable manifest ({first_line(error)}); `finetune verify` repairs the store"
            ) from error

    def write(self, directory: Path) -> None:
        """Write the manifest into ``directory``, synced to the disk before it can be seen."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False)
        with (directory / MANIFEST).open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())


def describe_files(directory: Path) -> list[FileEntry]:
    """Return every file below ``directory`` but the manifest, in path order, each with its hash."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST)
    return [
        FileEntry(path=p.relative_to(directory).as_posix(), bytes=p.stat().st_size, sha256=digest_file(p))
        for p in paths
    ]


def content_digest(files: Iterable[FileEntry], beside: tuple[str, ...] = ()) -> str:
    """Return the digest of an artifact's content: all files but those that only accompany it."""
    content = [f for f in files if not any(fnmatch(f.path, pattern) for pattern in beside)]
    return digest_entries((f.path, f.sha256) for f in content)
