"""Growing arrays, in memory or in a file: where the near-duplicate index keeps what it has read.

In memory a column is a list of blocks until it is read, and then one array; a large file column is appended
to and read through a memory map, so that the system pages in what is looked at and nothing else.
"""

from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", bound=np.generic)

HELD_BYTES = 1 << 20
"""What a file column holds before it writes: an index has dozens, each given little at a time."""


class Column(Generic[Scalar]):
    """A one-dimensional array that grows by blocks; kept in ``path`` once it is large, where one is given."""

    def __init__(self, dtype: type[Scalar] | np.dtype[Scalar], path: Path | None = None) -> None:
        """Begin empty; a file of that name is removed."""
        self._dtype = dtype
        self._path = path
        self._blocks: list[npt.NDArray[Scalar]] = []
        self._length = self._written = 0
        if path is not None:
            path.unlink(missing_ok=True)

    def __len__(self) -> int:
        """Return the number of values."""
        return self._length

    def append(self, block: npt.NDArray[Scalar]) -> None:
        """Add values at the end."""
        self._length += len(block)
        self._blocks.append(block)
        if self._path and (self._length - self._written) * block.itemsize > HELD_BYTES:
            self._write(self._path)

    def _write(self, path: Path) -> None:
        with path.open("ab") as file:
            for block in self._blocks:
                file.write(np.ascontiguousarray(block, self._dtype).data)
        self._blocks, self._written = [], self._length

    def array(self) -> npt.NDArray[Scalar]:
        """Return all values as one read-only array."""
        if self._path and self._written:
            if self._blocks:
                self._write(self._path)
            return np.asarray(np.memmap(self._path, self._dtype, "r"))
        if len(self._blocks) != 1:
            self._blocks = [self._joined()]
        self._blocks[0].flags.writeable = False  # as a mapped one: compiled kernels tell the two apart
        return self._blocks[0]

    def _joined(self) -> npt.NDArray[Scalar]:
        """Copy block by block, letting each go once copied: never twice the memory."""
        whole = np.empty(self._length, self._dtype)
        self._blocks.reverse()
        filled = 0
        while self._blocks:
            block = self._blocks.pop()
            whole[filled : filled + len(block)] = block
            filled += len(block)
        return whole


class TextColumns:
    """The columns of a near-duplicate index: shingles, and for each text its size, keys and band keys."""

    def __init__(self, bands: int, directory: Path | None = None) -> None:
        """Begin empty, in memory or in files of the directory."""

        def path(name: str) -> Path | None:
            return directory / name if directory is not None else None

        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        self.hashes = Column(np.uint32, path("shingles"))
        self.sizes = Column(np.int32, path("sizes"))
        self.first_keys = Column(np.uint64, path("keys-0"))
        self.second_keys = Column(np.uint64, path("keys-1"))
        self.bands = [Column(np.uint32, path(f"band-{band:03d}")) for band in range(bands)]

    def append(
        self,
        hashes: npt.NDArray[np.uint32],
        sizes: npt.NDArray[np.int32],
        keys: npt.NDArray[np.uint64],
        bands: npt.NDArray[np.uint32],
    ) -> None:
        """Add a block of n texts: all their shingles, n sizes, keys (n by 2) and band keys (bands by n)."""
        self.hashes.append(hashes)
        self.sizes.append(sizes)
        self.first_keys.append(keys[:, 0].copy())
        self.second_keys.append(keys[:, 1].copy())
        for column, values in zip(self.bands, bands, strict=True):
            column.append(values.copy())

    def copied(self) -> "TextColumns":
        """Return columns in memory that begin with the values of these and grow apart from them."""
        other = TextColumns(len(self.bands))
        other.hashes.append(self.hashes.array())
        other.sizes.append(self.sizes.array())
        other.first_keys.append(self.first_keys.array())
        other.second_keys.append(self.second_keys.array())
        for mine, theirs in zip(self.bands, other.bands, strict=True):
            theirs.append(mine.array())
        return other
