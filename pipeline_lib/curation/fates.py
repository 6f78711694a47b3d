"""Fates: look into a dataset, and follow one conversation from its file to what training learns.

A conversation keeps its id from ingest to its tokens, so its *fate* at a stage is where its row stands: in a
part that goes on, or among the dropped with reason and detail.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.kinds import Dataset, Tokens

PARTS = ("kept", "train", "validation", "test", "dropped")


@dataclass(frozen=True)
class Fate:
    """What one stage did with a conversation."""

    stage: str
    part: str
    """``kept``, a split, ``dropped``, or empty where the stage has no such conversation."""
    reason: str = ""
    detail: str = ""
    changed: bool = False
    """Whether its messages differ from what the stage before left."""


def parts_of(dataset: Dataset) -> list[str]:
    """Return the parts that a dataset has, the dropped last."""
    return [part for part in PARTS if dataset.shards(part)]


def head(dataset: Dataset, part: str, count: int) -> list[dict[str, Any]]:
    """Return the first ``count`` rows of a part; ConfigError for a part that the dataset does not have."""
    from itertools import islice

    from pipeline_lib import records

    if part not in parts_of(dataset):
        raise ConfigError(f"{dataset.address} has no part {part!r}; it has {', '.join(parts_of(dataset))}")
    return list(islice(records.rows(dataset.shards(part), max(count, 1)), count))


def unlearnt(tokens: Tokens, count: int) -> list[dict[str, str]]:
    """Return the first ``count`` conversations that are not learnt: id, part, reason and detail."""
    import pyarrow.parquet as pq

    found = [row for shard in tokens.shards("dropped") for row in pq.read_table(shard).to_pylist()]
    return found[:count]


def trace(stages: Mapping[str, Dataset | Tokens], wanted: str) -> tuple[dict[str, Any], list[Fate]]:
    """Return a conversation as it came in, and its fate at every stage up to the one that dropped it.

    ``wanted`` is its id or the beginning of it; ConfigError where no stage has it or several ids begin so.
    """
    first: dict[str, Any] | None = None
    last: Any = None
    fates: list[Fate] = []
    for stage, dataset in stages.items():
        if isinstance(dataset, Tokens):
            if first is not None:
                fates += _learnt(stage, dataset, str(first["id"]))
            continue
        part, row = _find(dataset, wanted if first is None else str(first["id"]))
        if row is None:
            if first is not None:
                fates.append(Fate(stage, ""))
            continue
        changed = first is not None and row["messages"] != last
        first, last = first or row, row["messages"]
        fates.append(Fate(stage, part, row.get("reason") or "", row.get("detail") or "", changed))
        if part == "dropped":
            break
    if first is None:
        raise ConfigError(
            f"no conversation's id begins with {wanted!r} in {', '.join(stages) or 'this pipeline'}"
        )
    return first, fates


def _learnt(stage: str, tokens: Tokens, wanted: str) -> Iterator[Fate]:
    import pyarrow.parquet as pq

    for part in ("train", "validation", "dropped"):
        for shard in tokens.shards(part):
            columns = ["id", "reason", "detail"] if part == "dropped" else ["id"]
            for row in pq.read_table(shard, columns=columns, filters=[("id", "=", wanted)]).to_pylist():
                yield Fate(stage, part, row.get("reason") or "", row.get("detail") or "")


def _find(dataset: Dataset, wanted: str) -> tuple[str, dict[str, Any] | None]:
    found = [(part, row) for part in parts_of(dataset) for row in _rows_with(dataset, part, wanted)]
    if len(ids := {row["id"] for _, row in found}) > 1:
        raise ConfigError(f"{len(ids)} ids begin with {wanted!r}; give more of it, such as {min(ids)}")
    return found[0] if found else ("", None)


def _rows_with(dataset: Dataset, part: str, wanted: str) -> Iterator[dict[str, Any]]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from pipeline_lib import records

    for shard in dataset.shards(part):
        if not pc.any(pc.starts_with(pq.read_table(shard, columns=["id"])["id"], wanted)).as_py():
            continue
        for batch in records.batches([shard]):
            yield from batch.filter(pc.starts_with(batch.column("id"), wanted)).to_pylist()


def origin(row: Mapping[str, Any]) -> str:
    """Return where a conversation came from: its source, and the file and line in its metadata."""
    metadata = json.loads(row["metadata"] or "{}")
    place = next((f":{metadata[key]}" for key in ("line", "row") if key in metadata), "")
    file = str(metadata.get("file") or metadata.get("module") or "")
    within = f" {metadata['name']}" if "module" in metadata and "name" in metadata else ""
    return f"{row['source']}  {file}{place}{within}".strip()
