"""Arrivals: what was read, in line, with ids that no two conversations share.

An *id* is the hash of a conversation's content; the second conversation with the same content has the hash of
content and number, and so on. Which contents were met before is kept as sorted 64-bit keys (8 bytes a row).
Should two contents share a key, the later one gets a number that it did not need: ids stay unique.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline_lib import records

Keys = npt.NDArray[np.uint64]


class Arrivals:
    """Gives ids to what arrives, in order."""

    def __init__(self) -> None:
        """Begin with nothing met."""
        self._seen = Occurrences()

    def named(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the batch with ids in the place of the contents' digests (hex)."""
        texts = batch.column("id").to_pylist()
        digests = np.frombuffer(bytes.fromhex("".join(texts)), np.uint8).reshape(-1, 32)
        numbers = self._seen.numbers(digests[:, :8].copy().view(np.uint64).ravel())
        ids = [_id(text, number) for text, number in zip(texts, numbers, strict=True)]
        place = batch.schema.get_field_index("id")
        return batch.set_column(place, records.SCHEMA.field("id"), pa.array(ids, pa.string()))


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


def _id(digest: str, number: int) -> str:
    if number:
        digest = hashlib.sha256(bytes.fromhex(digest) + number.to_bytes(8, "big")).hexdigest()
    return digest[:32]
