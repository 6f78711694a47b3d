"""What a stage writes to: a scratch directory that becomes the artifact when all went well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline_lib.core import progress

T = TypeVar("T")


@dataclass
class Output:
    """The directory of an artifact in the making, and what is to be said about it."""

    stage: str
    path: Path
    """Scratch directory; everything below it becomes the artifact."""
    work: Path
    """Survives a failed try of the same recipe (checkpoints, caches); removed when the artifact is done."""
    blocks: Path | None = None
    """Where results for parts of the input may be kept for later builds of the same stage and config, by the
    same code; whoever reads there must bear that anything is missing. None: nothing is kept."""
    stats: dict[str, Any] = field(default_factory=dict)
    """JSON values that the manifest keeps: what the stage counted."""

    def track(
        self,
        iterable: Iterable[T],
        what: str = "conversations",
        total: float | None = None,
        size: Callable[[T], float] | None = None,
    ) -> Iterator[T]:
        """Yield from ``iterable`` and show the progress under this stage's name."""
        return progress.track(iterable, f"{self.stage}: {what}", total, size)
