"""The conversation: the one record that travels through curation, as Arrow columns in Parquet shards.

A conversation has an ``id`` (hash of its content and place), a ``source``, ``messages``, and where it has
them ``tools``, a preference pair (``chosen``/``rejected``), a ``label``, and ``metadata`` (JSON). A plain
text is a conversation with one message of role ``text``. What a stage drops stands beside what it
keeps, with ``reason`` and ``detail``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_lib.core.behind import Behind, ahead
from pipeline_lib.settings import settings

if TYPE_CHECKING:
    from pipeline_lib.core.output import Output
    from pipeline_lib.kinds import Dataset

MESSAGE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("name", pa.string()),
        ("tool_calls", pa.string()),
        ("tool_call_id", pa.string()),
        ("reasoning", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("messages", pa.list_(MESSAGE)),
        ("tools", pa.string()),
        ("chosen", pa.list_(MESSAGE)),
        ("rejected", pa.list_(MESSAGE)),
        ("label", pa.bool_()),
        ("metadata", pa.string()),
    ]
)
DROPPED = SCHEMA.append(pa.field("reason", pa.string())).append(pa.field("detail", pa.string()))
ROLES = ("system", "user", "assistant", "tool", "text")
SHARD_ROWS = 50_000
BATCH_ROWS = 8_192

Verdict = tuple[str, str] | None
"""The fate of a conversation: None where it is kept, else the reason and the detail of its drop."""


def batches(paths: Sequence[Path], size: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Yield the shards' rows in order, ``size`` at a time; a batch never spans two shards."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            # Threads for each column cost more than they save where one column has most of the bytes.
            yield from file.iter_batches(batch_size=size, use_threads=False)


def tracked(
    out: Output, dataset: Dataset, what: str, part: str = "kept", size: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a part in order, ``size`` at a time, shown as the progress of ``what``."""
    read = ahead(batches(dataset.shards(part), size), settings().workers > 1)
    yield from out.track(read, what, dataset.count(part), len)


def rows(paths: Sequence[Path], size: int = BATCH_ROWS) -> Iterator[dict[str, Any]]:
    """Yield the conversations one by one as plain dictionaries."""
    for batch in batches(paths, size):
        yield from batch.to_pylist()


def column(paths: Sequence[Path], name: str, size: int = SHARD_ROWS) -> Iterator[pa.Array]:
    """Yield one column of the shards' rows in order, ``size`` values at a time whatever the shards are."""
    held: list[pa.Array] = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=size, columns=[name]):
                held.append(batch.column(0))
                while sum(map(len, held)) >= size:
                    joined = pa.concat_arrays(held)
                    yield joined[:size]
                    held = [joined[size:]]
    if any(map(len, held)):
        yield pa.concat_arrays(held)


def from_rows(items: Sequence[dict[str, Any]], schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    """Return rows as a batch of ``schema``; keys that a row lacks are null."""
    return pa.RecordBatch.from_pylist(list(items), schema=schema)


def message(role: str, content: str, **extra: str | None) -> dict[str, str | None]:
    """Return one message with every field of the schema."""
    blank: dict[str, str | None] = {field.name: None for field in MESSAGE}
    return {**blank, "role": role, "content": content, **extra}


def select(batch: pa.RecordBatch, mask: Any) -> pa.RecordBatch:
    """Return the rows of ``batch`` where ``mask`` (booleans, one per row) is true."""
    return batch.filter(pa.array(mask, type=pa.bool_()))


def plain_texts(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Return which conversations have one message alone, of role ``text``."""
    lists = batch.column("messages")
    sizes = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
    plain: npt.NDArray[np.bool_] = sizes == 1
    roles = lists.flatten().field("role").take(pa.array((sizes.cumsum() - sizes)[plain]))
    plain[plain] = np.asarray(pc.fill_null(pc.equal(roles, "text"), False))
    return plain


def text_column(
    batch: pa.RecordBatch,
    roles: Sequence[str] = ROLES,
    columns: Sequence[str] = ("messages",),
    fields: Sequence[str] = ("content",),
) -> pa.LargeStringArray:
    """Return for each conversation the contents of its messages of ``roles``, joined by blank lines."""
    texts, keys = [], []
    for rank, column in enumerate(columns):
        lists = batch.column(column)
        flat, parents = lists.flatten(), np.asarray(pc.list_parent_indices(lists))
        asked = pc.is_in(flat.field("role"), pa.array(list(roles)))
        for turn, field in enumerate(fields):
            said = flat.field(field).cast(pa.large_string())
            places = np.flatnonzero(pc.fill_null(pc.and_(asked, pc.not_equal(said, "")), False))
            texts.append(said.take(pa.array(places)))
            keys.append((places * len(fields) + turn, np.full(len(places), rank), parents[places]))
    joined = [np.concatenate(part) for part in zip(*keys, strict=True)]
    ends = np.bincount(joined[-1], minlength=batch.num_rows).cumsum()
    ordered = pa.concat_arrays(texts).take(pa.array(np.lexsort(joined)))
    parts = pa.LargeListArray.from_arrays(pa.array(np.append(0, ends)), ordered)
    return pc.binary_join(parts, pa.scalar("\n\n", pa.large_string()))


def text_of(
    batch: pa.RecordBatch,
    roles: Sequence[str] = ROLES,
    columns: Sequence[str] = ("messages",),
    fields: Sequence[str] = ("content",),
) -> list[str]:
    """Return ``text_column`` as Python's strings."""
    texts: list[str] = text_column(batch, roles, columns, fields).to_pylist()
    return texts


def noted(batch: pa.RecordBatch, facts: Sequence[Mapping[str, object]]) -> pa.RecordBatch:
    """Return the batch with a row's facts in its metadata; a source's own column of such a name stands aside.

    It is then called ``column.<name>``.
    """
    before = batch.column("metadata").to_pylist()
    texts = [_with_facts(text, told) if told else text for text, told in zip(before, facts, strict=True)]
    place = batch.schema.get_field_index("metadata")
    return batch.set_column(place, SCHEMA.field("metadata"), pa.array(texts, pa.string()))


def _with_facts(metadata: str | None, facts: Mapping[str, object]) -> str:
    given: dict[str, object] = json.loads(metadata or "{}")
    aside = {f"column.{name}" if name in facts else name: value for name, value in given.items()}
    return json.dumps({**aside, **facts}, ensure_ascii=False)


def map_contents(
    batch: pa.RecordBatch, change: Callable[[str], str], suspect: str = ""
) -> tuple[pa.RecordBatch, int]:
    """Return the batch with ``change`` applied to every message's content, and how many texts it changed.

    Only a content in which the pattern ``suspect`` (RE2) is found is looked at.
    """
    changed = 0
    for column in ("messages", "chosen", "rejected"):
        lists = batch.column(column)
        flat = lists.flatten()
        contents = flat.field("content")
        looked_at = pc.fill_null(pc.match_substring_regex(contents, suspect), False)
        before = contents.filter(looked_at).to_pylist()
        after = [change(text) for text in before]
        differing = sum(one != two for one, two in zip(before, after, strict=True))
        if differing:
            changed += differing
            contents = pc.replace_with_mask(contents, looked_at, pa.array(after, pa.string()))
            batch = batch.set_column(
                batch.schema.get_field_index(column),
                SCHEMA.field(column),
                _with_contents(lists, flat, contents),
            )
    return batch, changed


def _with_contents(lists: pa.ListArray, flat: pa.StructArray, contents: pa.StringArray) -> pa.ListArray:
    fields = [contents if field.name == "content" else flat.field(field.name) for field in MESSAGE]
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
    return pa.ListArray.from_arrays(
        pa.array(np.append(0, lengths.cumsum()), pa.int32()),
        pa.StructArray.from_arrays(fields, fields=list(MESSAGE)),
        type=pa.list_(MESSAGE),
        mask=lists.is_null(),
    )


def replaced(batch: pa.RecordBatch, places: Sequence[int], rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch with other rows in some of its places."""
    if not rows.num_rows:
        return batch
    sources = np.arange(batch.num_rows)
    sources[list(places)] = batch.num_rows + np.arange(rows.num_rows)
    return pa.concat_batches([batch, rows]).take(pa.array(sources))


class _Part:
    """One part's shards, each of ``SHARD_ROWS`` rows whatever batches they came in."""

    def __init__(self, directory: Path, name: str, schema: pa.Schema, behind: Behind) -> None:
        self.directory, self.name, self.schema, self.behind = directory, name, schema, behind
        self.rows = 0
        self._shard: pq.ParquetWriter | None = None
        self._held: list[pa.RecordBatch] = []
        self._held_rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        batch = batch.cast(self.schema) if batch.schema != self.schema else batch
        self.rows += batch.num_rows
        self._held.append(batch)
        self._held_rows += batch.num_rows
        while self._held_rows >= SHARD_ROWS:
            self._flush(SHARD_ROWS)

    def _flush(self, count: int) -> None:
        table = pa.Table.from_batches(self._held, schema=self.schema)
        index = (self.rows - self._held_rows) // SHARD_ROWS
        path = self.directory / f"{self.name}-{index:05d}.parquet"
        self.behind.do(partial(_write_shard, table.slice(0, count), path))
        rest = table.slice(count)
        self._held, self._held_rows = rest.to_batches(), rest.num_rows

    def close(self) -> None:
        if self._held_rows or not self.rows:
            self._flush(self._held_rows)


def _write_shard(rows: pa.Table, path: Path) -> None:
    # One row group per shard of fixed length: the bytes do not depend on how the rows arrived.
    pq.write_table(
        rows.combine_chunks(), path, compression="zstd", row_group_size=SHARD_ROWS, store_schema=True
    )


class DatasetWriter:
    """Writes a Dataset's parts; the bytes depend on the rows and their order alone."""

    def __init__(self, directory: Path, parts: Sequence[str] = ("kept",)) -> None:
        """Open the parts that are to exist even where they get no row; others open on their first row."""
        self.directory = directory
        self.reasons: dict[str, int] = {}
        self._behind = Behind(settings().workers > 1)
        self._parts: dict[str, _Part] = {}
        for name in parts:
            self._open(name, SCHEMA)
        self._open("dropped", DROPPED)

    def __enter__(self) -> DatasetWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is held back, unless the block failed; what was begun is ended in every case."""
        try:
            if kind is None:
                for part in self._parts.values():
                    part.close()
                self._behind.finish()
        finally:
            self._behind.end()

    def write(self, part: str, batch: pa.RecordBatch) -> None:
        """Append a batch to ``part``."""
        if part not in self._parts:
            self._open(part, SCHEMA)
        self._parts[part].write(batch)

    def keep(self, batch: pa.RecordBatch) -> None:
        """Append a batch to what is kept."""
        self.write("kept", batch)

    def drop(self, batch: pa.RecordBatch, reasons: Sequence[str], details: Sequence[str]) -> None:
        """Append a batch to what is dropped, with a reason and its evidence for each row."""
        for reason in reasons:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
        batch = batch.append_column("reason", pa.array(reasons, pa.string()))
        self._parts["dropped"].write(batch.append_column("detail", pa.array(details, pa.string())))

    def sift(self, batch: pa.RecordBatch, verdicts: Sequence[Verdict]) -> None:
        """Keep the rows whose verdict is None and drop the others, for their (reason, detail)."""
        fates = [verdict is None for verdict in verdicts]
        self.keep(select(batch, fates))
        dropped = [verdict for verdict in verdicts if verdict is not None]
        if dropped:
            self.drop(
                select(batch, [not fate for fate in fates]), [r for r, _ in dropped], [d for _, d in dropped]
            )

    def _open(self, part: str, schema: pa.Schema) -> None:
        self._parts[part] = _Part(self.directory, part, schema, self._behind)

    @property
    def counts(self) -> dict[str, int]:
        """Rows written so far, by part."""
        return {name: part.rows for name, part in self._parts.items()}

    def stats(self, read: int) -> dict[str, Any]:
        """Return the manifest's account of the stage: read, kept (or each split), dropped, reasons."""
        return {"read": read, **self.counts, "reasons": dict(sorted(self.reasons.items()))}
