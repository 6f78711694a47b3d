"""Rows: one reader for each way in which a decompressed file holds rows.

Every reader takes a binary stream and yields rows in order, each with its place: the number of its first line
where the file has lines, of the row otherwise. A row that cannot be read has an ``error``, and the reading
goes on. JSON stays text (``bytes``) until ``parsed`` reads it, in whatever process has the time.
``readers`` chooses the reader, ``tables`` reads CSV, ``json_array`` cuts arrays into elements.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import orjson

from pipeline_lib.core.errors import DataError
from pipeline_lib.curation.json_array import elements

LIMIT = 100_000_000
"""Bytes of the longest row that is read."""
TEXT_CHARACTERS = 32_000
"""Characters after which a plain text is cut at the next blank line (about 8,000 tokens)."""
BOM = b"\xef\xbb\xbf"
KEEP = "surrogateescape"
"""Bytes that are no UTF-8 become surrogates, which mark the row they stand in."""
_TOO_LONG = f"is longer than {LIMIT:,} bytes"
_BATCH = 4_096


class Row(NamedTuple):
    """One row: its place (line or row number, from 1), its value or JSON text, and why it cannot be read."""

    place: int
    value: Any
    error: str = ""


def said(error: Exception) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield numbered lines; None stands for a line over the limit.

    They are without byte order marks, which stand within a file too where several were joined.
    """
    number = 0
    while line := stream.readline(LIMIT):
        number += 1
        line = line.removeprefix(BOM)
        if len(line) < LIMIT or line.endswith(b"\n"):
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(LIMIT)
        yield number, None


def parsed(row: Row) -> Row:
    """Return the row with the value that its JSON text stands for; a row without such a text as it is."""
    if not isinstance(row.value, bytes):
        return row
    place, text = row.place, row.value
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return _tolerant_row(place, text, error)
    if isinstance(value, dict):
        for key in value:
            # A quote inside a string is escaped, so this finds keys (and strings that are just a key) alone.
            if text.count(b'"%b"' % key.encode()) > 1 and _repeats(text):
                return Row(place, None, f"key {key[:40]!r} stands there twice")
    return Row(place, value)


def _tolerant_row(place: int, text: bytes, error: orjson.JSONDecodeError) -> Row:
    """Read what Python's json writes beyond the standard (NaN, Infinity) as null."""
    if b"NaN" in text or b"Infinity" in text:
        try:
            return Row(place, json.loads(text, parse_constant=lambda _: None))
        except (ValueError, RecursionError):
            pass
    return Row(place, None, encoding_error(text.decode("utf-8", KEEP)) or f"is not JSON: {said(error)}")


def _repeats(text: bytes) -> bool:
    found: list[bool] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        found.append(len({key for key, _ in pairs}) < len(pairs))

    try:
        json.loads(text, object_pairs_hook=look)
    except RecursionError:
        return True
    return found[-1]


def json_lines(stream: BinaryIO) -> Iterator[Row]:
    """Yield the rows of JSON Lines; lines of white space alone are no rows."""
    for number, line in lines(stream):
        if line is None:
            yield Row(number, None, _TOO_LONG)
        elif line.strip():
            yield Row(number, line)


def json_array(stream: BinaryIO) -> Iterator[Row]:
    """Yield the elements of a JSON array."""
    for number, element in enumerate(elements(stream, LIMIT), start=1):
        if isinstance(element, str):
            yield Row(number, None, element)
        else:
            yield Row(number, element)


def json_object(stream: BinaryIO) -> Iterator[Row]:
    """Yield the rows of the one list that an object holds, or the object itself where it holds none."""
    data = stream.read(LIMIT + 1).removeprefix(BOM)
    if len(data) > LIMIT:
        raise DataError(f"a single JSON object {_TOO_LONG}; write it as JSON Lines")
    row = parsed(Row(1, data))
    value = row.value if isinstance(row.value, dict) else {}
    lists = [
        name
        for name, items in value.items()
        if isinstance(items, list) and items and isinstance(items[0], dict)
    ]
    if len(lists) > 1:
        raise DataError(
            f"a JSON object holds several lists ({', '.join(lists)}); write the one meant to its own file"
        )
    if lists:
        yield from (Row(number, item) for number, item in enumerate(value[lists[0]], start=1))
    else:
        yield row


def encoding_error(text: str) -> str:
    """Return what is wrong with a text that was decoded with ``KEEP``; empty where it was UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"is not UTF-8 (byte 0x{ord(text[error.start]) - 0xDC00:02x}); save the file as UTF-8"
    return ""


class _Piece:
    """The lines of a text that were read and not yet given away."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._begin, self._size = 1, 0

    def __bool__(self) -> bool:
        return self._size > 0

    def is_full(self, line: str) -> bool:
        """Say whether the piece ends before ``line``."""
        enough, most = self._size >= TEXT_CHARACTERS, self._size + len(line) > 2 * TEXT_CHARACTERS
        return (enough and not line.strip()) or (bool(self) and most)

    def add(self, number: int, line: str) -> None:
        """Take a line in; blank lines before the first are none of it."""
        if not self and not line.strip():
            return
        self._begin = self._begin if self else number
        self._lines.append(line)
        self._size += len(line)

    def take(self) -> Row:
        """Return the piece as a row and begin the next."""
        row = Row(self._begin, "".join(self._lines).strip("\r\n"))
        self._lines, self._size = [], 0
        return row


def texts(stream: BinaryIO) -> Iterator[Row]:
    """Yield a text in pieces of about ``TEXT_CHARACTERS``, cut at blank lines, else at line ends."""
    piece = _Piece()
    try:
        for number, line in lines(stream):
            text = "" if line is None else line.decode("utf-8", KEEP)
            error = _TOO_LONG if line is None else _text_error(text)
            if error:
                yield Row(number, None, error)
                continue
            if piece.is_full(text):
                yield piece.take()
            piece.add(number, text)
    except Exception:
        # What was read before the file broke off is still a text; the caller says what happened.
        if piece:
            yield piece.take()
        raise
    if piece:
        yield piece.take()


def _text_error(text: str) -> str:
    return "has a NUL byte" if "\x00" in text else encoding_error(text)


def parquet(stream: BinaryIO) -> Iterator[Row]:
    """Yield the rows of a Parquet file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(stream) as file:
        yield from _placed(file.iter_batches(batch_size=_BATCH))


def arrow(stream: BinaryIO) -> Iterator[Row]:
    """Yield the rows of an Arrow file or stream."""
    import pyarrow as pa

    head = stream.read(6)
    stream.seek(0)
    if head == b"ARROW1":
        with pa.ipc.open_file(stream) as file:
            yield from _placed(file.get_batch(i) for i in range(file.num_record_batches))
    elif head:
        with pa.ipc.open_stream(stream) as reader:
            yield from _placed(reader)


def _placed(batches: Any) -> Iterator[Row]:
    place = 0
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError:
            rows = [_cell_by_cell(batch.slice(i, 1)) for i in range(batch.num_rows)]
        for value in rows:
            place += 1
            yield value._replace(place=place) if isinstance(value, Row) else Row(place, value)


def _cell_by_cell(single: Any) -> Any:
    try:
        return single.to_pylist()[0]
    except UnicodeDecodeError:
        return Row(0, None, "is not UTF-8")
