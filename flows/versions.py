"""Versions: what the model registry holds, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flows.lines import table

if TYPE_CHECKING:
    from tasks.registry import VersionRow

EMPTY = "no model is registered yet; `finetune run CONFIG` ends with registering one"


def known(name: str | None) -> list[VersionRow]:
    """Return the versions of one registered model, or of all, newest first."""
    from tasks.registry import registry_exists, versions

    return versions(name) if name or registry_exists() else []


def as_json(rows: list[VersionRow]) -> list[dict[str, Any]]:
    """Return the versions as JSON values."""
    return [asdict(row) for row in rows]


def lines_of(rows: list[VersionRow]) -> Iterator[str]:
    """Yield the versions as an aligned table."""
    if not rows:
        yield EMPTY
        return
    heads = ("model", "version", "aliases", "gate", "created", "model artifact", "why")
    yield from table([heads, *(_cells(row) for row in rows)])


def _cells(row: VersionRow) -> tuple[str, ...]:
    created = row.created[:16].replace("T", " ")
    return (
        row.name,
        str(row.version),
        ", ".join(row.aliases),
        row.verdict,
        created,
        row.digest[:12],
        row.reason,
    )


def warning_of(row: VersionRow) -> str | None:
    """Return what is to be known of a version that a person made champion; None where its gate is open."""
    if not row.gate_closed:
        return None
    return (
        f"note: the gate of {row.name} version {row.version} is closed; that you overruled it, and why, is "
        f"kept in the registry (`finetune rollback {row.name} --reason …` takes it back)"
    )
