"""An artifact: a directory plus the manifest that says how it came to be.

The kinds of artifacts (Dataset, Model, …) are subclasses in ``pipeline_lib.kinds``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pipeline_lib.core.errors import StoreError
from pipeline_lib.core.manifest import MANIFEST, Manifest


@dataclass(frozen=True)
class Artifact:
    """A finished directory in the store, known by the digest of its content."""

    beside: ClassVar[tuple[str, ...]] = ()
    """Globs of files that accompany the content (logs, timings) and do not enter its digest."""

    path: Path
    digest: str
    fingerprint: str = ""

    @classmethod
    def kind_of(cls, path: Path) -> type[Artifact]:
        """Return the kind that the directory ``path`` holds; a kind with sub-kinds looks inside."""
        return cls

    @cached_property
    def manifest(self) -> Manifest:
        """The record of how this artifact came to be."""
        return Manifest.read(self.path / MANIFEST)

    @property
    def address(self) -> str:
        """``<stage>/<fingerprint>``, the artifact's place in the store."""
        return f"{self.path.parent.name}/{self.path.name}"

    def file(self, name: str) -> Path:
        """Return the path of one of the artifact's files; StoreError where it is missing."""
        path = self.path / name
        if not path.exists():
            raise StoreError(
                f"{self.address} has no {name}; run `finetune verify`, then rebuild it with --force"
            )
        return path
