"""Reading: rows of a file as conversations, a run of rows at a time and in any process.

The outcome of a run has a row for every conversation and for every row that is dropped, in their order, with
the SHA-256 of the content in the place of the id: which ids they get, ``arrivals`` says when all are in line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib import records
from pipeline_lib.curation import shapes
from pipeline_lib.curation.blocks import Outcome
from pipeline_lib.curation.rows import Row, parsed
from pipeline_lib.curation.turns import FormatError

NOT_SAMPLED = "not_sampled"
"""The reason of what a source's weight leaves out."""
PLACES = frozenset({"file", "line", "row"})
"""Metadata that says where in its source a conversation stood."""
_FIELDS = tuple(field.name for field in records.MESSAGE)
_MARKUP = r"(?i)</?(?:p|br|div|span|a|li|ul|ol|td|tr|table|h[1-6]|b|i|strong|em|img|script)(?:\s[^<>]*)?/?>"
_MOJIBAKE = "Ã[\u0080-¿]|â€|Â[\u00a0-¿]"
_DOCUMENTED = "pydocs"


class Item(NamedTuple):
    """One conversation, or one row that is dropped for ``reason``."""

    conversation: shapes.Conversation
    metadata: str
    digest: bytes
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Reading:
    """How the rows of one file become conversations; ``format`` is one of the shapes, or ``pydocs``."""

    source: str
    file: str
    unit: str
    """What a row's place counts: ``line`` or ``row``."""
    format: str
    columns: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0


class Run(NamedTuple):
    """Rows that follow each other in one file."""

    reading: Reading
    rows: Sequence[Row]

    def key(self) -> str | None:
        """Return the digest (hex) of the rows and of how they are read; None where they were read already."""
        if not all(isinstance(row.value, bytes | None) for row in self.rows):
            return None
        sha = hashlib.sha256(repr(self.reading).encode())
        for row in self.rows:
            sha.update(b"%d %s\0" % (row.place, row.error.encode("utf-8", "backslashreplace")))
            sha.update(row.value or b"")
        return sha.hexdigest()


def conversations_of(run: Run) -> Outcome:
    """Return a run's conversations and dropped rows; ``counts`` has each row's items and the suspects."""
    reading = run.reading
    shape = _documented if reading.format == _DOCUMENTED else shapes.shape(reading.format)
    rename = renamer(reading.columns)
    items: list[Item] = []
    sizes = []
    for row in run.rows:
        before = len(items)
        items.extend(_items(reading, row, lambda value: shape(rename(value))))
        sizes.append(len(items) - before)
    batch = _batch(reading.source, items)
    verdicts: list[records.Verdict] = [(item.reason, item.detail) if item.reason else None for item in items]
    return Outcome(batch, verdicts, {"items": sizes, "suspect": suspects(batch)})


def suspects(batch: pa.RecordBatch) -> dict[str, int]:
    """Return how many messages look like HTML, like encoding damage, or hold replacement characters."""
    contents = batch.column("messages").flatten().field("content")
    tagged = contents.filter(pc.match_substring(contents, "<"))
    foreign = contents.filter(pc.invert(pc.string_is_ascii(contents)))
    return {
        "markup": _count(pc.match_substring_regex(tagged, _MARKUP)),
        "mojibake": _count(pc.match_substring_regex(foreign, _MOJIBAKE)),
        "replacement_character": _count(pc.match_substring(foreign, "\ufffd")),
    }


def renamer(columns: Mapping[str, str]) -> Callable[[Any], Any]:
    """Return a function that gives a row our column names; a column whose name is taken gets a prefix."""
    if not columns:
        return lambda row: row
    ours = {theirs: name for name, theirs in columns.items()}

    def name(key: str) -> str:
        return ours.get(key) or (f"column.{key}" if key in columns else key)

    return lambda row: {name(key): value for key, value in row.items()} if isinstance(row, Mapping) else row


def _documented(value: Mapping[str, Any]) -> list[shapes.Conversation]:
    return [{"messages": value["messages"], "metadata": value["metadata"]}]


def _items(reading: Reading, row: Row, shape: Callable[[Any], list[shapes.Conversation]]) -> Iterator[Item]:
    place = {"file": reading.file, reading.unit: row.place}
    row = parsed(row)
    if row.error:
        yield _dropped(reading, "unreadable", row.error, place)
        return
    try:
        conversations = shape(row.value)
    except FormatError as error:
        yield _dropped(reading, "unrecognised", f"{error} (read as {reading.format})", place)
        return
    for conversation in conversations:
        yield _item(reading, conversation, place)


def _item(reading: Reading, conversation: shapes.Conversation, place: Mapping[str, Any]) -> Item:
    told = conversation.pop("metadata", {})
    # Two objects with the same docstring are two conversations, whatever else there is.
    name = str(told["name"]) if reading.format == _DOCUMENTED else ""
    try:
        metadata, digest = _metadata_text(told, place), _digest(conversation, name)
    except (TypeError, RecursionError) as error:
        return _dropped(reading, "unreadable", f"cannot be written as UTF-8 JSON: {error}", place)
    if reading.weight < 1 and _share(digest) >= reading.weight:
        detail = f"{_place_text(place)}: left out by weight {reading.weight}"
        return Item(conversation, metadata, digest, NOT_SAMPLED, detail)
    return Item(conversation, metadata, digest)


def _dropped(reading: Reading, reason: str, why: str, place: Mapping[str, Any]) -> Item:
    detail = f"{_place_text(place)}: {why}".encode("utf-8", "backslashreplace").decode()
    digest = hashlib.sha256(f"{reading.source}\0{detail}".encode()).digest()
    return Item({"messages": []}, _metadata_text({}, place), digest, reason, detail)


def _metadata_text(metadata: Mapping[str, Any], place: Mapping[str, Any]) -> str:
    if not PLACES.isdisjoint(metadata):
        metadata = {f"column.{key}" if key in PLACES else key: value for key, value in metadata.items()}
    return orjson.dumps({**metadata, **place}, default=str).decode()


def _digest(conversation: Mapping[str, Any], name: str) -> bytes:
    content = [conversation.get(key) for key in ("messages", "tools", "chosen", "rejected", "label")]
    return hashlib.sha256(orjson.dumps([name, *content], option=orjson.OPT_SORT_KEYS)).digest()


def _share(digest: bytes) -> float:
    """Return a number in [0, 1) that a content always has, and that its id does not give away."""
    return int.from_bytes(hashlib.sha256(b"weight" + digest).digest()[:8], "big") / 2**64


def _place_text(place: Mapping[str, Any]) -> str:
    return ":".join(map(str, place.values()))


def _count(matches: Any) -> int:
    return int(pc.sum(matches).as_py() or 0)


def _batch(source: str, items: Sequence[Item]) -> pa.RecordBatch:
    conversations = [item.conversation for item in items]
    columns = {
        "id": pa.array([item.digest.hex() for item in items], pa.string()),
        "source": pa.array([source] * len(items), pa.string()),
        "messages": _lists([one["messages"] for one in conversations]),
        "tools": pa.array([one.get("tools") for one in conversations], pa.string()),
        "chosen": _lists([one.get("chosen") for one in conversations]),
        "rejected": _lists([one.get("rejected") for one in conversations]),
        "label": pa.array([one.get("label") for one in conversations], pa.bool_()),
        "metadata": pa.array([item.metadata for item in items], pa.string()),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in records.SCHEMA.names], schema=records.SCHEMA)


def _lists(lists: Sequence[list[dict[str, str | None]] | None]) -> pa.ListArray:
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
