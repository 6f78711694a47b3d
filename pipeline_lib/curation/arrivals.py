"""Arrivals: items as batches of records, with ids that no two of them share.

An *id* is the hash of a conversation's content; the second conversation with the same content has the hash of
content and number, and so on. Which contents were met before is kept as sorted 64-bit keys (8 bytes a row).
Should two contents share a key, the later one gets a number that it did not need: ids stay unique.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib import records
from pipeline_lib.curation.intake import Item

_FIELDS = tuple(field.name for field in records.MESSAGE)
_MARKUP = r"(?i)</?(?:p|br|div|span|a|li|ul|ol|td|tr|table|h[1-6]|b|i|strong|em|img|script)(?:\s[^<>]*)?/?>"
_MOJIBAKE = "Ã[\u0080-¿]|â€|Â[\u00a0-¿]"
Keys = npt.NDArray[np.uint64]


class Arrivals:
    """Collects items to batches and hands them to a writer, kept and dropped apart, in order."""

    def __init__(self, writer: records.DatasetWriter) -> None:
        """Begin with nothing read."""
        self.read = 0
        self.suspect = {"markup": 0, "mojibake": 0, "replacement_character": 0}
        self._writer = writer
        self._seen = Occurrences()
        self._held: list[Item] = []

    def add(self, item: Item) -> None:
        """Take one item in."""
        self._held.append(item)
        if len(self._held) == records.BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Hand what is held to the writer."""
        items, self._held = self._held, []
        if not items:
            return
        self.read += len(items)
        keys = np.frombuffer(b"".join(item.digest[:8] for item in items), dtype=np.uint64)
        ids = [_id(item.digest, number) for item, number in zip(items, self._seen.numbers(keys), strict=True)]
        batch = _batch(items, ids)
        self._look_at(batch.column("messages").flatten().field("content"))
        self._writer.sift(batch, [(item.reason, item.detail) if item.reason else None for item in items])

    def _look_at(self, contents: pa.StringArray) -> None:
        self.suspect["markup"] += _count(pc.match_substring_regex(contents, _MARKUP))
        self.suspect["mojibake"] += _count(pc.match_substring_regex(contents, _MOJIBAKE))
        self.suspect["replacement_character"] += _count(pc.match_substring(contents, "\ufffd"))


class Occurrences:
    """Says of every key how often it was met before, in 8 bytes a key."""

    def __init__(self) -> None:
        """Begin with no key met."""
        self._levels: list[Keys] = []
        self._repeats: dict[int, int] = {}

    def numbers(self, keys: Keys) -> list[int]:
        """Return for each key, in order, the number of times it stood before it."""
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        again = np.zeros(len(keys), dtype=bool)
        again[order[1:]] = ordered[1:] == ordered[:-1]
        for level in self._levels:
            places = np.minimum(np.searchsorted(level, keys), len(level) - 1)
            again |= level[places] == keys
        self._remember(np.unique(keys[~again]))
        numbers = [0] * len(keys)
        for i in np.flatnonzero(again).tolist():
            key = int(keys[i])
            numbers[i] = self._repeats[key] = self._repeats.get(key, 0) + 1
        return numbers

    def _remember(self, fresh: Keys) -> None:
        # Levels double in size, so a key is merged a logarithmic number of times and few are searched.
        while self._levels and len(self._levels[-1]) <= 2 * len(fresh):
            fresh = np.sort(np.concatenate([self._levels.pop(), fresh]), kind="stable")
        if len(fresh):
            self._levels.append(fresh)


def _id(digest: bytes, number: int) -> str:
    if number:
        digest = hashlib.sha256(digest + number.to_bytes(8, "big")).digest()
    return digest[:16].hex()


def _count(matches: Any) -> int:
    return int(pc.sum(matches).as_py() or 0)


def _batch(items: list[Item], ids: list[str]) -> pa.RecordBatch:
    conversations = [item.conversation for item in items]
    columns = {
        "id": pa.array(ids, pa.string()),
        "source": pa.array([item.source for item in items], pa.string()),
        "messages": _lists([one["messages"] for one in conversations]),
        "tools": pa.array([one.get("tools") for one in conversations], pa.string()),
        "chosen": _lists([one.get("chosen") for one in conversations]),
        "rejected": _lists([one.get("rejected") for one in conversations]),
        "label": pa.array([one.get("label") for one in conversations], pa.bool_()),
        "metadata": pa.array([item.metadata for item in items], pa.string()),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in records.SCHEMA.names], schema=records.SCHEMA)


def _lists(lists: list[list[dict[str, str | None]] | None]) -> pa.ListArray:
    """Return lists of messages as an Arrow column, built by column: from_pylist takes five times as long."""
    offsets: list[int | None] = []
    messages: list[dict[str, str | None]] = []
    for one in lists:
        offsets.append(None if one is None else len(messages))
        messages.extend(one or ())
    offsets.append(len(messages))
    filled = set().union(*messages)
    fields = [
        pa.array([message.get(name) for message in messages], pa.string())
        if name in filled
        else pa.nulls(len(messages), pa.string())
        for name in _FIELDS
    ]
    struct = pa.StructArray.from_arrays(fields, fields=list(records.MESSAGE))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), struct)
