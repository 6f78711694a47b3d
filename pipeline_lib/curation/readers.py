"""Containers: the rows of a file with their places, streamed.

A *container* is how a file holds rows: JSON Lines, a JSON array, a JSON object with one list, CSV, TSV,
Parquet, Arrow or plain text, each plain or compressed by gzip or zstd. It is known by the file's first bytes
and its name. A row that cannot be read comes out with its place and the reason, and the reading goes on;
where a file breaks off, its last row says so. ``rows`` and ``tables`` have the readers; what a row means,
``shapes`` says.
"""

from __future__ import annotations

import gzip
import itertools
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from pipeline_lib.core.errors import DataError
from pipeline_lib.curation.rows import (
    BOM,
    Row,
    arrow,
    json_array,
    json_lines,
    json_object,
    lines,
    parquet,
    said,
    texts,
)
from pipeline_lib.curation.tables import table
from pipeline_lib.curation.unpacked import BombError, bounded
from pipeline_lib.curation.zstd_stream import open_zstd

_HEAD = 1 << 16
_SPOOL = 64 << 20
_EXTENSIONS = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "json",
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
    "arrow": "arrow",
    "feather": "arrow",
    "ipc": "arrow",
    "txt": "text",
    "text": "text",
    "md": "text",
}
_COMPRESSED = {"gz": b"\x1f\x8b", "zst": b"\x28\xb5\x2f\xfd"}
_WHOLE = ("parquet", "arrow")
Recognise = Callable[[Any], bool]


@dataclass(frozen=True)
class Container:
    """How one file holds its rows."""

    kind: str
    compression: str = ""

    @property
    def counts_lines(self) -> bool:
        """Whether places are line numbers; otherwise they count rows."""
        return self.kind in ("jsonl", "csv", "tsv", "text")

    def __str__(self) -> str:
        """Return the container's name, such as ``jsonl.gz``."""
        return f"{self.kind}.{self.compression}" if self.compression else self.kind


def is_readable_name(name: str) -> bool:
    """Say whether a file's extension is that of a container (what a folder is searched for)."""
    return _extension(name)[0] in _EXTENSIONS


def identify(open_file: Callable[[], BinaryIO], name: str, recognise: Recognise) -> Container:
    """Return the container of a file by its name and its first bytes.

    ``recognise`` says whether an object is a row of a known format. Raises DataError for a file that cannot
    be opened, whose compression is broken, or whose container is not known.
    """
    extension, compression = _extension(name)
    unreadable: tuple[type[Exception], ...] = (*_damage(), OSError)
    try:
        with open_file() as raw:
            head = raw.read(_HEAD)
        compression = _compression_of(head, compression, name)
        with open_file() as raw, _plain(raw, compression) as stream:
            head = stream.read(_HEAD)
        kind = _kind(head, extension, name)
        if kind in _WHOLE:
            _check_whole(open_file, Container(kind, compression))
        if kind == "json":
            kind = _json_kind(open_file, compression, recognise)
    except BombError as error:
        raise DataError(f"{name}: {error}") from error
    except unreadable as error:
        raise DataError(
            f"{name}: cannot be opened ({said(error)}); check the file, or take it out of the source"
        ) from error
    return Container(kind, compression)


def read(open_file: Callable[[], BinaryIO], name: str, container: Container) -> Iterator[Row]:
    """Yield the rows of a file; where it breaks off or is damaged, the last row says so.

    Raises DataError where the file as a whole cannot be read.
    """
    place = 0
    try:
        with open_file() as raw, _unpacked(raw, container) as stream:
            for row in _READERS[container.kind](stream):
                place = row.place
                yield row
    except _damage() as error:
        yield Row(place + 1, None, f"the file breaks off or is damaged here ({said(error)})")
    except (DataError, BombError) as error:
        raise DataError(f"{name}: {error}") from error
    except OSError as error:
        where = f"{name}: cannot be read after row {place}"
        raise DataError(f"{where} ({said(error)}); check the disk or the server") from error


def _check_whole(open_file: Callable[[], BinaryIO], container: Container) -> None:
    """Read the schema of a file that has one; the errors of broken bytes where it cannot be had."""
    with open_file() as raw, _unpacked(raw, container) as stream:
        next(_READERS[container.kind](stream), None)


def _extension(name: str) -> tuple[str, str]:
    parts = name.lower().rsplit("/", 1)[-1].split(".")[1:]
    compression = parts.pop() if parts and parts[-1] in _COMPRESSED else ""
    return (parts[-1] if parts else ""), compression


def _compression_of(head: bytes, named: str, name: str) -> str:
    found = next((kind for kind, magic in _COMPRESSED.items() if head.startswith(magic)), "")
    if named and found != named and head:
        raise DataError(f"{name}: is named .{named} but has no {named} header; decompress or rename it")
    return found


def _kind(head: bytes, extension: str, name: str) -> str:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow"
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        raise DataError(f"{name}: is UTF-32; save it as UTF-8")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name}: is UTF-16; save it as UTF-8")
    known = _EXTENSIONS.get(extension)
    if known in ("jsonl", "csv", "tsv") and b"\n" not in head and b"\r" in head.rstrip():
        raise DataError(f"{name}: its lines end with CR alone; save it with LF, or CR and LF")
    if known == "parquet":
        raise DataError(f"{name}: is not a Parquet file; check that it was copied whole")
    text = head.removeprefix(BOM).lstrip()
    if known == "jsonl" and not text.startswith(b"["):
        return "jsonl"
    if known in ("json", "jsonl") or (known is None and text[:1] in (b"[", b"{")):
        return "array" if text.startswith(b"[") else "json"
    if known is None:
        known_ones = ", ".join(_EXTENSIONS)
        raise DataError(f"{name}: unknown container; known are {known_ones}, plain or as .gz or .zst")
    return known


def _json_kind(open_file: Callable[[], BinaryIO], compression: str, recognise: Recognise) -> str:
    """Return whether what begins with ``{`` is JSON Lines or one object that holds the rows."""
    with open_file() as raw, _plain(raw, compression) as stream:
        full = (line for _, line in lines(stream) if line is None or line.strip())
        first, second = (_parsed(line) for line in itertools.islice(itertools.chain(full, (None, None)), 2))
    if isinstance(second, dict) or (isinstance(first, dict) and recognise(first)):
        return "jsonl"
    return "object"


def _parsed(line: bytes | None) -> Any:
    try:
        return orjson.loads(line) if line else None
    except orjson.JSONDecodeError:
        return None


def _plain(raw: BinaryIO, compression: str) -> BinaryIO:
    if compression == "gz":
        return bounded(gzip.GzipFile(fileobj=raw), raw)
    if compression == "zst":
        return bounded(open_zstd(raw), raw)
    return raw


def _unpacked(raw: BinaryIO, container: Container) -> BinaryIO:
    """Return the decompressed stream; for what is read back and forth, through a temporary file."""
    stream = _plain(raw, container.compression)
    if container.kind not in _WHOLE or not container.compression:
        return stream
    with ExitStack() as closing:
        spool: Any = closing.enter_context(tempfile.SpooledTemporaryFile(_SPOOL))
        with stream:
            shutil.copyfileobj(stream, spool)
        spool.seek(0)
        closing.pop_all()  # the caller closes it
    return spool  # type: ignore[no-any-return]


def _damage() -> tuple[type[Exception], ...]:
    """Return the exceptions that mean broken bytes (not a broken disk)."""
    import pyarrow as pa
    import zstandard

    return (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, pa.lib.ArrowException)


_READERS: dict[str, Callable[[BinaryIO], Iterator[Row]]] = {
    "jsonl": json_lines,
    "array": json_array,
    "object": json_object,
    "csv": lambda stream: table(stream, tab=False),
    "tsv": lambda stream: table(stream, tab=True),
    "parquet": parquet,
    "arrow": arrow,
    "text": texts,
}
