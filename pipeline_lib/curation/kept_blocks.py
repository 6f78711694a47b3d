"""Kept blocks: what a stage made of parts of its input, in the store, for the next build with this config.

One Arrow file a block, named by the digest of the block's rows. It holds the rows that the stage changed,
with their places, and in its metadata the verdicts on the dropped and the counts; rows that stay as they are
cost nothing. What was read of a file has no rows before it, and is kept whole. Whatever cannot be read is
worked out again.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import pyarrow as pa

from pipeline_lib import records
from pipeline_lib.records import Verdict

Known = tuple[pa.RecordBatch, list[Verdict], Mapping[str, Any]]

_PLACE = pa.field("place", pa.int32())
_SCHEMA = records.SCHEMA.append(_PLACE)


class KeptBlocks:
    """The outcomes in one directory; without a directory nothing is kept."""

    def __init__(self, directory: Path | None) -> None:
        """Look into ``directory``, which need not be there."""
        self._directory = directory

    @property
    def off(self) -> bool:
        """Whether nothing is kept."""
        return self._directory is None

    def read(self, key: str, block: pa.RecordBatch | None = None) -> Known | None:
        """Return what was made of the block with this digest: rows, verdicts, counts; None where unknown."""
        if self._directory is None:
            return None
        try:
            path, options = self._directory / f"{key}.arrow", pa.ipc.IpcReadOptions(use_threads=False)
            with pa.OSFile(str(path)) as file, pa.ipc.open_file(file, options=options) as reader:
                notes = json.loads(reader.schema.metadata[b"notes"])
                changed = reader.get_batch(0)
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
            return None
        places = changed.column("place").to_pylist()
        rows = changed.drop_columns(["place"])
        rows = rows if block is None else records.replaced(block, places, rows)
        verdicts: list[Verdict] = [None] * rows.num_rows
        for place, reason, detail in notes["dropped"]:
            verdicts[place] = (reason, detail)
        return rows, verdicts, notes["counts"]

    def read_arrays(self, key: str) -> dict[str, Any] | None:
        """Return the arrays that were kept under this digest; None where there are none."""
        if self._directory is None:
            return None
        import numpy as np

        try:
            # Opened here, as NumPy leaves a damaged file open.
            with (self._directory / f"{key}.npz").open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, EOFError, BadZipFile):
            return None

    def write_arrays(self, key: str, arrays: Mapping[str, Any]) -> None:
        """Keep NumPy arrays under a digest."""
        self._write(f"{key}.npz", lambda path: _save(path, arrays))

    def _write(self, name: str, save: Callable[[Path], None]) -> None:
        """Write a file as a whole or not at all; a disk that is full costs time later, nothing now."""
        if self._directory is None:
            return
        fresh = self._directory / f".{uuid.uuid4().hex[:12]}"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            save(fresh)
            fresh.replace(self._directory / name)
        except OSError:
            fresh.unlink(missing_ok=True)

    def write(
        self,
        key: str,
        made: pa.RecordBatch,
        verdicts: Sequence[Verdict],
        counts: Mapping[str, Any],
        block: pa.RecordBatch | None = None,
    ) -> None:
        """Keep what was made of a block, or of what was no block before."""
        if self.off:
            return
        dropped = [(place, *verdict) for place, verdict in enumerate(verdicts) if verdict is not None]
        notes = json.dumps({"dropped": dropped, "counts": counts}).encode()
        places = list(range(made.num_rows) if block is None else _changed(block, made, 0, block.num_rows))
        rows = made.take(pa.array(places, pa.int32())).append_column(_PLACE, pa.array(places, pa.int32()))

        def save(path: Path) -> None:
            schema, options = (
                _SCHEMA.with_metadata({"notes": notes}),
                pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False),
            )
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
                writer.write_batch(rows)

        self._write(f"{key}.arrow", save)


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    import numpy as np

    with path.open("wb") as file:
        np.savez(file, **arrays)


def _changed(before: pa.RecordBatch, after: pa.RecordBatch, begin: int, end: int) -> Iterator[int]:
    """Yield the places whose rows differ, by halving what differs."""
    if begin == end or before.slice(begin, end - begin).equals(after.slice(begin, end - begin)):
        return
    if end - begin == 1:
        yield begin
        return
    middle = (begin + end) // 2
    yield from _changed(before, after, begin, middle)
    yield from _changed(before, after, middle, end)
