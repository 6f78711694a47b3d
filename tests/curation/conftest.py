"""Fixtures of this room: datasets of a few rows in a store of the test's own, and stages built from them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib import records
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.core.store import Store
from pipeline_lib.kinds import Dataset
from pipeline_lib.settings import settings

Row = dict[str, Any]


class RowsConfig(StageConfig):
    """Rows as JSON, and how many a shard holds."""

    rows: str
    shard: int


@stage(produces=Dataset, version=1)
def rows_given(out: Output, config: RowsConfig) -> None:
    """The rows, in shards."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = json.loads(config.rows)
    for start in range(0, max(len(rows), 1), config.shard):
        table = pa.Table.from_batches([records.from_rows(rows[start : start + config.shard])])
        pq.write_table(table, out.path / f"kept-{start:05d}.parquet")


def message(role: str, content: str | None, **extra: str | None) -> Row:
    """Return one message."""
    return {**records.message(role, ""), "content": content, **extra}


def chat(*contents: str, name: str = "", system: str | None = None, **extra: Any) -> Row:
    """Return a conversation in which user and assistant say ``contents`` in turn."""
    turns = [message(("user", "assistant")[i % 2], text) for i, text in enumerate(contents)]
    return {
        "id": name,
        "source": "s",
        "messages": [*([message("system", system)] if system else []), *turns],
        **extra,
    }


def text(content: str, name: str = "") -> Row:
    """Return a plain text."""
    return {"id": name, "source": "s", "messages": [message("text", content)]}


def pair(prompt: str, chosen: str, rejected: str, name: str = "") -> Row:
    """Return a preference pair."""
    sides = {"chosen": [message("assistant", chosen)], "rejected": [message("assistant", rejected)]}
    return {"id": name, "source": "s", "messages": [message("user", prompt)], **sides}


@dataclass(frozen=True)
class Workshop:
    """A store, with short ways to put rows into it and to run a stage."""

    store: Store

    def dataset(self, rows: list[Row], shard: int = 1000) -> Dataset:
        """Return the rows as an artifact."""
        return self.store.materialize(
            rows_given.recipe(RowsConfig(rows=json.dumps(rows), shard=shard))
        ).artifact

    def run(self, of: Any, config: StageConfig, rows: list[Row] | Dataset) -> Dataset:
        """Return the stage's artifact; what it read is what stands in its parts, to the row."""
        given = rows if isinstance(rows, Dataset) else self.dataset(rows)
        made: Dataset = self.store.materialize(of.recipe(config, given)).artifact
        parts = [part for part in ("kept", "train", "validation", "test", "dropped") if made.shards(part)]
        before = [row["id"] for row in found(given)]
        assert sorted(row["id"] for part in parts for row in found(made, part)) == sorted(before)
        assert made.manifest.stats["read"] == len(before)
        assert sum(made.manifest.stats.get(part, 0) for part in parts) == len(before)
        assert all(row["reason"] and row["detail"] for row in found(made, "dropped"))
        return made


def found(dataset: Dataset, part: str = "kept") -> list[Row]:
    """Return the rows of a part."""
    return list(records.rows(dataset.shards(part)))


def said(row: Row, column: str = "messages") -> list[str]:
    """Return the contents of a row's messages."""
    return [one["content"] for one in row[column]]


def reasons(dataset: Dataset) -> dict[str, str]:
    """Return the reason of every dropped row by its id."""
    return {row["id"]: row["reason"] for row in found(dataset, "dropped")}


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """A store of the test's own."""
    return Workshop(Store(tmp_path / "workshop"))


@pytest.fixture
def same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Any, StageConfig, list[Row]], None]:
    """A check that one worker and two, and two runs, write the same bytes, whatever the shards."""

    def check(of: Any, config: StageConfig, rows: list[Row]) -> None:
        digests = set()
        for workers, shard, place in ((1, 7, "a"), (2, 7, "b"), (1, 1000, "c")):
            monkeypatch.setenv("FINETUNE_WORKERS", str(workers))
            settings.cache_clear()
            shop = Workshop(Store(tmp_path / place))
            digests.add(shop.run(of, config, shop.dataset(rows, shard)).digest)
        assert len(digests) == 1

    return check
