"""Intake: an opened source as a stream of items, each one conversation or one row that is dropped.

Opening a source opens every file, finds its container and its format, and so meets whatever cannot be read at
all before anything is written. An *item* carries the digest of its content; ``arrivals`` makes ids of it.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from pipeline_lib.core.errors import DataError
from pipeline_lib.curation import shapes
from pipeline_lib.curation.readers import Container, identify, read
from pipeline_lib.curation.rows import Row
from pipeline_lib.curation.sources import File, Source, files_of
from pipeline_lib.curation.turns import FormatError

SAMPLE_ROWS = 100
"""Rows at the head of a file that its format is detected from."""
_PLACES = ("file", "line", "row")


class Item(NamedTuple):
    """One conversation of a source, or one row that is dropped for ``reason``."""

    source: str
    conversation: shapes.Conversation
    metadata: str
    digest: bytes
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class _OpenFile:
    file: File
    container: Container
    format: str


@dataclass
class OpenSource:
    """A source whose files are known, with what was counted while they were read."""

    source: Source
    label: str
    files: list[_OpenFile]
    rows: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def items(self) -> Iterator[Item]:
        """Yield the source's items in the order of its files, up to its limit."""
        found = (
            self._documented()
            if self.source.name
            else itertools.chain.from_iterable(map(self._read, self.files))
        )
        for item in found:
            if item.reason:
                self.reasons[item.reason] += 1
            else:
                self.kept += 1
            yield item
            if self.kept == self.source.limit:
                return

    def stats(self) -> dict[str, Any]:
        """Return what the manifest says about the source."""
        return {
            "source": self.label,
            "container": _named(str(file.container) for file in self.files),
            "format": _named(file.format for file in self.files) or "openai",
            "files": len(self.files),
            "bytes": sum(file.file.bytes for file in self.files),
            "rows": self.rows,
            "kept": self.kept,
            "dropped": self.reasons.total(),
            "reasons": dict(sorted(self.reasons.items())),
        }

    def _read(self, opened: _OpenFile) -> Iterator[Item]:
        name, shaped = opened.file.name, shapes.shape(opened.format)
        unit = "line" if opened.container.counts_lines else "row"
        rename = _renamer(self.source.columns)
        for row in read(opened.file.open, name, opened.container):
            self.rows += 1
            place = {"file": name, unit: row.place}
            if row.error:
                yield self._dropped("unreadable", row.error, place)
                continue
            try:
                conversations = shaped(rename(row.value))
            except FormatError as error:
                yield self._dropped("unrecognised", f"{error} (read as {opened.format})", place)
                continue
            for conversation in conversations:
                yield self._item(conversation, place)

    def _documented(self) -> Iterator[Item]:
        from pipeline_lib.curation.pydocs import read_pydocs

        for number, row in enumerate(read_pydocs(), start=1):
            self.rows += 1
            metadata: Any = row["metadata"]
            conversation = {"messages": row["messages"], "metadata": metadata}
            # Two objects with the same docstring are two conversations, whatever else there is.
            yield self._item(conversation, {"file": "pydocs", "row": number}, str(metadata["name"]))

    def _item(self, conversation: shapes.Conversation, place: Mapping[str, Any], name: str = "") -> Item:
        try:
            metadata = _metadata_text(conversation.pop("metadata", {}), place)
            digest = _digest(conversation, name)
        except (TypeError, RecursionError) as error:
            return self._dropped("unreadable", f"cannot be written as UTF-8 JSON: {error}", place)
        if self.source.weight < 1 and _share(digest) >= self.source.weight:
            detail = f"{_place_text(place)}: left out by weight {self.source.weight}"
            return Item(self.label, conversation, metadata, digest, "not_sampled", detail)
        return Item(self.label, conversation, metadata, digest)

    def _dropped(self, reason: str, why: str, place: Mapping[str, Any]) -> Item:
        detail = f"{_place_text(place)}: {why}".encode("utf-8", "backslashreplace").decode()
        digest = hashlib.sha256(f"{self.label}\0{detail}".encode()).digest()
        return Item(self.label, {"messages": []}, _metadata_text({}, place), digest, reason, detail)


def open_sources(sources: Sequence[Source]) -> list[OpenSource]:
    """Return the sources with their files opened once; DataError where one cannot be read at all."""
    labels: Counter[str] = Counter()
    opened = []
    for source in sources:
        labels[source.label] += 1
        count = labels[source.label]
        label = source.label if count == 1 else f"{source.label}#{count}"
        opened.append(OpenSource(source, label, [] if source.name else _open_files(source)))
    return opened


def _open_files(source: Source) -> list[_OpenFile]:
    rename = _renamer(source.columns)

    def recognise(value: Any) -> bool:
        return shapes.detect(rename(value)) is not None

    files = [(file, identify(file.open, file.name, recognise)) for file in files_of(source)]
    heads = [
        list(itertools.islice(read(file.open, file.name, container), SAMPLE_ROWS))
        for file, container in files
    ]
    _check_columns(source, heads)
    formats = [_format(source, file, head, rename) for (file, _), head in zip(files, heads, strict=True)]
    usual = next((name for name, _ in Counter(name for name in formats if name).most_common(1)), None)
    if usual is None and any(heads):
        error = next(row for head in heads for row in head if row.error)
        raise DataError(
            f"{source.label}: none of its first rows can be read; the first: {error.place}: {error.error}"
        )
    return [
        _OpenFile(file, container, name or usual or "text")
        for (file, container), name in zip(files, formats, strict=True)
    ]


def _format(source: Source, file: File, head: list[Row], rename: Callable[[Any], Any]) -> str | None:
    """Return the format of most rows at the head of a file; None where none of them can be read."""
    if source.format:
        return source.format
    values = [rename(row.value) for row in head if not row.error]
    found = Counter(name for value in values if (name := shapes.detect(value)))
    if found:
        return found.most_common(1)[0][0]
    if not values:
        return None
    keys = (
        ", ".join(map(str, values[0])) if isinstance(values[0], Mapping) else f"a {type(values[0]).__name__}"
    )
    raise DataError(
        f"{file.name}: no format has rows like its first ({keys[:200]}); "
        f"name the format ({', '.join(shapes.FORMATS)}) "
        "and map its columns, such as columns: {prompt: …, completion: …}"
    )


def _check_columns(source: Source, heads: list[list[Row]]) -> None:
    present = {key for head in heads for row in head if isinstance(row.value, Mapping) for key in row.value}
    for ours, theirs in source.columns.items():
        if present and theirs not in present:
            near = difflib.get_close_matches(theirs, map(str, present), n=1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else f"it has {', '.join(sorted(map(str, present)))[:200]}"
            )
            raise DataError(f"{source.label}: columns.{ours}: no column {theirs!r}; {hint}")


def _renamer(columns: Mapping[str, str]) -> Callable[[Any], Any]:
    """Return a function that gives a row our column names; a column whose name is taken gets a prefix."""
    if not columns:
        return lambda row: row
    ours = {theirs: name for name, theirs in columns.items()}

    def name(key: str) -> str:
        return ours.get(key) or (f"column.{key}" if key in columns else key)

    return lambda row: {name(key): value for key, value in row.items()} if isinstance(row, Mapping) else row


def _metadata_text(metadata: Mapping[str, Any], place: Mapping[str, Any]) -> str:
    if any(key in metadata for key in _PLACES):
        metadata = {f"column.{key}" if key in _PLACES else key: value for key, value in metadata.items()}
    return orjson.dumps({**metadata, **place}, default=str).decode()


def _digest(conversation: Mapping[str, Any], name: str) -> bytes:
    content = [conversation.get(key) for key in ("messages", "tools", "chosen", "rejected", "label")]
    return hashlib.sha256(orjson.dumps([name, *content], option=orjson.OPT_SORT_KEYS)).digest()


def _share(digest: bytes) -> float:
    """Return a number in [0, 1) that a content always has, and that its id does not give away."""
    return int.from_bytes(hashlib.sha256(b"weight" + digest).digest()[:8], "big") / 2**64


def _place_text(place: Mapping[str, Any]) -> str:
    return ":".join(map(str, place.values()))


def _named(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))
