"""Pairs of texts that may be near duplicates, one band at a time, and the check that they are.

Texts with the same band key form a bucket. A bucket of up to ``BUCKET`` texts gives all its pairs. A larger
one (a template that many texts fill in, of which most pairs are under the threshold) would give too many: its
first text is compared with the others, and the texts of buckets that are not connected by that are
**crowded**. They are joined once, after all bands, by **prefix filtering** (Chaudhuri et al. 2006, Bayardo et
al. 2007): two sets of Jaccard t or more share one of the ``size - ceil(t * size) + 1`` shingles of each that
are rarest among the crowded. That loses no pair, and the shingles of the template, being frequent, never
meet. Only where even a rarest shingle is shared by more than ``RUN`` texts that are not connected yet
(thousands of texts that are nearly all template, pairwise under the threshold) is each compared with the next
``NEIGHBOURS`` by size alone: there, and nowhere else, the bound on the work can cost a pair.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline_lib.curation.similarity_kernel import (
    bucket_pairs,
    count_shingles,
    jaccards,
    large_buckets,
    near_pairs,
    prefix_shingles,
)

Positions: TypeAlias = npt.NDArray[np.int64]
Pairs: TypeAlias = tuple[Positions, Positions]

BUCKET = 32
RUN = 128
NEIGHBOURS = 64
PAIRS_AT_ONCE = 1 << 20
POSTINGS_AT_ONCE = 1 << 24
COUNTERS = 1 << 22

_SHIFT = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Rows:
    """The shingle sets of n texts: ``hashes[starts[i]:starts[i] + sizes[i]]``, sorted and unique."""

    hashes: npt.NDArray[np.uint32]
    starts: Positions
    sizes: npt.NDArray[np.int32]

    def pick(self, texts: Positions) -> "Rows":
        """Return the rows of some of the texts, over the same hashes."""
        return Rows(self.hashes, self.starts[texts], self.sizes[texts])


def similarities(rows: Rows, pairs: Pairs, threshold: float, workers: int = 1) -> npt.NDArray[np.float64]:
    """Return the Jaccard similarity of each pair of shingle sets, 0 where it is under the threshold."""
    left, right = pairs
    out = np.empty(len(left), np.float64)

    def verify(part: slice) -> None:
        jaccards(left[part], right[part], rows.hashes, rows.starts, rows.sizes, threshold, out[part])

    if workers == 1 or len(left) < 1 << 12:
        verify(slice(None))
        return out
    bounds = np.linspace(0, len(left), workers + 1).astype(int).tolist()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(verify, [slice(begin, end) for begin, end in pairwise(bounds)]))
    return out


def alike(
    rows: Rows, pairs: Pairs, threshold: float, workers: int = 1
) -> tuple[Positions, Positions, npt.NDArray[np.float64]]:
    """Return left, right and Jaccard of the pairs that reach the threshold, in the order given."""
    found = similarities(rows, pairs, threshold, workers)
    good = found > 0
    return pairs[0][good], pairs[1][good], found[good]


def ascending(values: Positions) -> Positions:
    """Return the distinct values in ascending order; ``np.unique`` hashes, slowly for packed pairs."""
    ordered = np.sort(values)
    return ordered[np.diff(ordered, prepend=-1) > 0]


class Step(NamedTuple):
    """Pairs of texts that share a key of one band: those of small buckets, or of a large one's first text."""

    pairs: Pairs
    bucket: Positions | None
    """The texts of the large bucket."""


def candidates(
    bands: Iterable[npt.NDArray[np.uint32]], rows: Rows, groups: Positions, threshold: float
) -> Iterator[Pairs]:
    """Yield the pairs of texts of different groups that share a band's key, in an order fixed by the data.

    The caller may merge groups between two yields; pairs that it has connected are then left out. A pair may
    come more than once.
    """
    crowd = Crowd(groups)
    for band in bands:
        for step in steps(band, groups):
            yield step.pairs
            crowd.note(step)
    yield from crowd.pairs(rows, threshold)


def steps(band: npt.NDArray[np.uint32], groups: Positions) -> Iterator[Step]:
    """Yield the candidates of one band."""
    packed = _packed(band)
    for members in _large_buckets(packed):
        apart = members[groups[members] != groups[members[0]]]
        yield Step((np.full(len(apart), members[0]), apart), members)
    for pairs in _bucket_pairs(packed, groups):
        yield Step(pairs, None)


class Crowd:
    """The texts of large buckets that comparing them with the first one did not connect."""

    def __init__(self, groups: Positions) -> None:
        """Begin with none; ``groups`` is what the caller keeps up to date."""
        self._groups = groups
        self._members = np.zeros(len(groups), np.bool_)

    def note(self, step: Step) -> None:
        """Take in a step whose pairs have been dealt with."""
        if step.bucket is not None:
            groups = self._groups[step.bucket]
            self._members[step.bucket] |= (groups != groups[0]).any()

    def pairs(self, rows: Rows, threshold: float) -> Iterator[Pairs]:
        """Yield their candidates, once all bands are done."""
        members = np.flatnonzero(self._members)
        members = members[np.argsort(rows.sizes[members], kind="stable")]
        yield from _prefix_join(members, rows.pick(members), self._groups, threshold)


def _packed(band: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    packed = band.astype(np.uint64) << _SHIFT | np.arange(len(band), dtype=np.uint64)
    packed.sort()
    return packed


def _large_buckets(packed: npt.NDArray[np.uint64]) -> Iterator[Positions]:
    bounds = np.empty((len(packed) // BUCKET, 2), np.int64)
    count = large_buckets(packed, BUCKET, bounds)
    for begin, end in bounds[:count]:
        yield (packed[begin:end] & _LOW).astype(np.int64)


def _bucket_pairs(packed: npt.NDArray[np.uint64], groups: Positions) -> Iterator[Pairs]:
    at = 0
    while at < len(packed):
        left, right = np.empty(PAIRS_AT_ONCE, np.int64), np.empty(PAIRS_AT_ONCE, np.int64)
        count, at = bucket_pairs(packed, at, groups, BUCKET, left, right)
        yield left[:count], right[:count]


def _prefix_join(members: Positions, rows: Rows, groups: Positions, threshold: float) -> Iterator[Pairs]:
    """Yield the pairs of members, given by ascending size with their rows, that share a prefix shingle."""
    steps: Any = ((bucket_pairs, (RUN,)), (near_pairs, (RUN, NEIGHBOURS)))
    for postings in _postings(rows, threshold):
        for write, limits in steps:
            at = 0
            while at < len(postings):
                left, right = np.empty(PAIRS_AT_ONCE, np.int64), np.empty(PAIRS_AT_ONCE, np.int64)
                count, at = write(postings, at, groups[members], *limits, left, right)
                both = ascending(left[:count] << 32 | right[:count])
                yield members[both >> 32], members[both & 0xFFFFFFFF]


def _postings(rows: Rows, threshold: float) -> Iterator[npt.NDArray[np.uint64]]:
    """Yield ``shingle << 32 | text``, sorted, for the rarest shingles of each text, in parts by shingle."""
    counts = np.zeros(COUNTERS, np.uint32)
    count_shingles(rows.hashes, rows.starts, rows.sizes, counts)
    prefixes = rows.sizes - np.ceil(threshold * rows.sizes - 1e-9).astype(np.int64) + 1
    parts = 1 + int(prefixes.sum()) // POSTINGS_AT_ONCE
    for part in range(parts if len(prefixes) else 0):
        chosen = np.empty(int(prefixes.sum()), np.uint64)
        used = prefix_shingles(rows.hashes, rows.starts, rows.sizes, prefixes, counts, part, parts, chosen)
        postings = chosen[:used].copy()
        postings.sort()
        yield postings
