"""The funnel: what each stage made of the conversations that it read, from the manifests alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FunnelRow:
    """What one stage made of the conversations that it read."""

    stage: str
    read: int
    kept: int
    dropped: int
    share: float
    """Kept, as a percentage of the most that any stage read."""
    reasons: tuple[tuple[str, int, float], ...]
    """Reason, count, and the count as a percentage of what was dropped; the most frequent first."""
    parts: tuple[tuple[str, int], ...]
    """Rows per split, where the stage made several."""


def funnel(counted: Iterable[tuple[str, Mapping[str, Any]]]) -> list[FunnelRow]:
    """Return a row for every (stage, its manifest's stats) that counts what it read, in the given order."""
    rows = [(name, stats) for name, stats in counted if "read" in stats]
    most = max((stats["read"] for _, stats in rows), default=0)
    return [_row(name, stats, most) for name, stats in rows]


def _row(name: str, stats: Mapping[str, Any], most: int) -> FunnelRow:
    splits = tuple((k, stats[k]) for k in ("train", "validation", "test") if isinstance(stats.get(k), int))
    kept = stats["kept"] if stats.get("kept") or not splits else sum(count for _, count in splits)
    dropped = stats.get("dropped", 0)
    reasons = sorted(stats.get("reasons", {}).items(), key=lambda item: (-item[1], item[0]))
    return FunnelRow(
        stage=name,
        read=stats["read"],
        kept=kept,
        dropped=dropped,
        share=100 * kept / most if most else 0.0,
        reasons=tuple(
            (reason, count, 100 * count / dropped if dropped else 0.0) for reason, count in reasons
        ),
        parts=splits,
    )
