"""Texts to sets of hashed n-grams (shingles), in one pass over the bytes of an Arrow string column.

A **word** is what ``alphabet`` says; case, punctuation, white space and the form of a character do not
count. A **shingle** is the 64-bit hash of ``ngram`` consecutive words; a text with fewer words has one
shingle, of all of them; a text without a word has one, of its raw bytes, so that it equals only its copies.
The **key** of a text is a 128-bit hash of its sequence of words: equal keys are exact duplicates.

The kernel reads UTF-8 in place, releases the GIL, and is compiled once per machine (Numba's file cache).
Neighbours: ``minhash`` makes signatures from the shingles, ``near_duplicates`` is the engine's front.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib.curation import alphabet as letters
from pipeline_lib.curation.alphabet import Alphabet, alphabet
from pipeline_lib.curation.shingle_kernel import gram_rows, shingle_rows, word_rows

Hashes: TypeAlias = npt.NDArray[np.uint64]
Positions: TypeAlias = npt.NDArray[np.int64]
Texts: TypeAlias = "Sequence[str | None] | pa.Array | pa.ChunkedArray"

BLOCK_BYTES = 1 << 20
BLOCK_TEXTS = 1 << 13


@dataclass(frozen=True)
class Shingles:
    """Shingle sets of n texts: ``hashes[offsets[i]:offsets[i + 1]]`` is text i's, sorted and unique.

    ``keys`` (n by 2, uint64) are the texts' exact keys.
    """

    hashes: Hashes
    offsets: Positions
    keys: Hashes

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Runs:
    """Hashes of n texts in the texts' order: those of text i are ``hashes[bounds[i]:bounds[i + 1]]``."""

    hashes: Hashes
    bounds: Positions

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.bounds) - 1

    def of(self, text: int) -> "Runs":
        """Return those of one text."""
        begin, end = self.bounds[text], self.bounds[text + 1]
        return Runs(self.hashes[begin:end], np.array([0, end - begin]))

    @property
    def sizes(self) -> Positions:
        """Return how many each text has."""
        return np.diff(self.bounds)

    def grams(self, size: int) -> "Runs":
        """Return the hashes of all runs of ``size``, where these are words."""
        out, bounds = np.empty(len(self.hashes), np.uint64), np.empty(len(self.bounds), np.int64)
        used = gram_rows(self.hashes, self.bounds, size, out, bounds)
        return Runs(out[:used], bounds)


def words_of(texts: Texts) -> Runs:
    """Return the hashes of the texts' words."""
    ours = alphabet()
    parts = [_words_of(block, ours) for array in _string_arrays(texts) for block in _blocks(array)]
    sizes = np.concatenate([np.zeros(1, np.int64), *(part.sizes for part in parts)])
    return Runs(np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in parts)]), sizes.cumsum())


def shingle(texts: Texts, ngram: int = 5, *, words: Alphabet | None = None, workers: int = 1) -> Shingles:
    """Return the shingle sets and exact keys of the texts; the same for any number of workers (threads)."""
    blocks = list(shingle_blocks(texts, ngram, words or alphabet(), workers))
    counts = [np.diff(block.offsets) for block in blocks]
    offsets = np.concatenate([np.zeros(1, np.int64), *counts]).cumsum()
    hashes = np.concatenate([np.empty(0, np.uint64), *(block.hashes for block in blocks)])
    keys = np.concatenate([np.empty((0, 2), np.uint64), *(block.keys for block in blocks)])
    return Shingles(hashes, offsets, keys)


def exact_keys(texts: Texts, *, words: Alphabet | None = None, workers: int = 1) -> Hashes:
    """Return the 128-bit key (n by 2, uint64) of each text's words: equal for texts that normalise alike."""
    return shingle(texts, 1, words=words, workers=workers).keys


def shingle_blocks(texts: Texts, ngram: int, words: Alphabet, workers: int = 1) -> Iterator[Shingles]:
    """Yield the shingle sets of the texts in order, in blocks of about a mebibyte of text."""
    task: Callable[[pa.Array], Shingles] = partial(_shingle_block, ngram=ngram, words=words)
    blocks = [block for chunk in _string_arrays(texts) for block in _blocks(chunk)]
    if workers == 1 or len(blocks) < 2:
        yield from map(task, blocks)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(task, blocks)


def _string_arrays(texts: Texts) -> list[pa.Array]:
    """Return the texts as Arrow arrays of large_string; a missing text reads as an empty one."""
    column = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts, pa.large_string())
    column = pc.fill_null(column.cast(pa.large_string()), "")
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _blocks(array: pa.Array) -> Iterator[pa.Array]:
    _, ends = _buffers(array)
    bounds = [0]
    while bounds[-1] < len(array):
        begin = bounds[-1]
        fits = int(np.searchsorted(ends, ends[begin] + BLOCK_BYTES, side="right")) - 1
        bounds.append(min(max(fits, begin + 1), begin + BLOCK_TEXTS, len(array)))
    yield from (array.slice(begin, end - begin) for begin, end in pairwise(bounds))


def _buffers(array: pa.Array) -> tuple[npt.NDArray[np.uint8], Positions]:
    """Return the bytes of a large_string array and the n + 1 offsets of its texts in them."""
    _, offsets, data = array.buffers()
    if len(array) == 0:
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    bytes_ = np.frombuffer(data or b"", np.uint8)
    bounds.flags.writeable = bytes_.flags.writeable = False  # one type, so that the kernel is compiled once
    return bytes_, bounds


def _words_of(array: pa.Array, words: Alphabet) -> Runs:
    data, offsets = _buffers(array)
    hashes = np.empty(int(offsets[-1] - offsets[0]) * _most_words(data, offsets) + 1, np.uint64)
    bounds = np.empty(len(array) + 1, np.int64)
    used = word_rows(data, offsets, words.starts, words.flat, hashes, bounds)
    return Runs(hashes[:used].copy(), bounds)


def _most_words(data: npt.NDArray[np.uint8], offsets: Positions) -> int:
    """Return how many words a byte of the texts can give."""
    begin, end = int(offsets[0]), int(offsets[-1])
    ascii_only = end == begin or int(data[begin:end].max()) < 128
    return 1 if ascii_only else letters.MOST_WORDS_PER_BYTE


def _shingle_block(array: pa.Array, ngram: int, words: Alphabet) -> Shingles:
    data, offsets = _buffers(array)
    begin, end = int(offsets[0]), int(offsets[-1])
    most = _most_words(data, offsets)
    longest = int(np.diff(offsets).max()) * most + 1
    hashes = np.empty((end - begin) * most + len(array), np.uint64)
    bounds = np.empty(len(array) + 1, np.int64)
    keys = np.empty((len(array), 2), np.uint64)
    scratch = np.empty(longest, np.uint64)
    used = shingle_rows(data, offsets, ngram, words.starts, words.flat, scratch, hashes, bounds, keys)
    return Shingles(hashes[:used].copy(), bounds, keys)
