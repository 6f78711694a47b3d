"""Near-duplicate texts: which belong together, which pairs are alike, which texts have a partner elsewhere.

    clusters = cluster(texts, threshold=0.8)        # one set of texts
    found = matches(test_texts, train_texts, 0.7)   # best partner of each query in a corpus

The way there: texts become sets of hashed word n-grams (``shingles``); exact copies are set aside; MinHash
band keys (``minhash``) bring candidates together, a band at a time (``candidates``); every candidate pair is
**verified** by the Jaccard similarity of its two sets, so that no text is ever put beside one that is less
like it than the threshold; the verified pairs make components (``clusters``).

An ``Index`` is fed in batches and keeps only shingles (the high 4 bytes of each hash, which part two shingles
in all but one case of 4 billion), band keys (4 bytes a band) and exact keys (16 bytes): 0.5 kB for a text of
600 bytes. Given a directory, it keeps them in files, one per column
and band, which are read a band at a time and otherwise only where candidates lie. The columns depend on the
texts, ``ngram``, ``bands``, ``rows``, ``seed`` and the alphabet only, never on the threshold or the batches;
results depend on the texts and their order alone, not on batches or workers.
"""

from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline_lib.curation.alphabet import Alphabet, alphabet
from pipeline_lib.curation.candidates import Rows, alike, ascending, candidates, similarities
from pipeline_lib.curation.clusters import Clusters, Forest
from pipeline_lib.curation.columns import TextColumns
from pipeline_lib.curation.matching import BestPartners, Matches
from pipeline_lib.curation.minhash import BANDS, ROWS, permutations, signatures
from pipeline_lib.curation.shingles import Shingles, Texts, shingle, shingle_blocks
from pipeline_lib.settings import Engine

Hashes: TypeAlias = npt.NDArray[np.uint64]
Positions: TypeAlias = npt.NDArray[np.int64]
Similarities: TypeAlias = npt.NDArray[np.float64]

NGRAM = 5
THRESHOLD = 0.8


class Signed(NamedTuple):
    """What an index remembers of n texts."""

    hashes: npt.NDArray[np.uint32]
    """The high halves of all their shingles, text by text."""
    sizes: npt.NDArray[np.int32]
    """How many shingles each text has (n)."""
    keys: Hashes
    """Exact keys (n by 2)."""
    bands: npt.NDArray[np.uint32]
    """Band keys (bands by n)."""


class Index:
    """What near-duplicate search needs to remember of the texts it was given."""

    def __init__(
        self,
        *,
        ngram: int = NGRAM,
        bands: int = BANDS,
        rows: int = ROWS,
        seed: int = 0,
        words: Alphabet | None = None,
        workers: int = 1,
        directory: Path | None = None,
        engine: Engine = "local",
    ) -> None:
        """Begin empty.

        ``ngram`` is in words of the alphabet ``words``; ``bands`` of ``rows`` minima are drawn by ``seed``;
        ``workers`` are threads; files in ``directory`` are overwritten. ``engine`` is where bands are joined.
        """
        self._engine = engine
        self._ngram, self._words, self._workers = ngram, words or alphabet(), workers
        self._maps = permutations(bands, rows, seed)
        self._columns = TextColumns(bands, directory)

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._columns.sizes)

    def add(self, texts: Texts) -> None:
        """Read a batch of texts; they take the next indices, in order."""
        for block in shingle_blocks(texts, self._ngram, self._words, self._workers):
            self.extend(self._signed(block))

    def extend(self, signed: "Signed") -> None:
        """Take in texts by what ``sign`` of an index with the same settings said about them."""
        self._columns.append(*signed)

    def sign(self, texts: Texts) -> "Signed":
        """Return what the index would remember of the texts, which stay outside of it; safe in threads."""
        parts = [self._signed(block) for block in shingle_blocks(texts, self._ngram, self._words)]
        if len(parts) == 1:
            return parts[0]
        nothing = self._signed(shingle([], self._ngram, words=self._words))
        hashes, sizes, keys, bands = zip(nothing, *parts, strict=True)
        return Signed(
            np.concatenate(hashes), np.concatenate(sizes), np.concatenate(keys), np.concatenate(bands, axis=1)
        )

    def _signed(self, block: Shingles) -> "Signed":
        bands = signatures(block.hashes, block.offsets, self._maps)
        halves = (block.hashes >> np.uint64(32)).astype(np.uint32)
        return Signed(halves, np.diff(block.offsets).astype(np.int32), block.keys, bands)

    @property
    def keys(self) -> tuple[Hashes, Hashes]:
        """The two halves of every text's exact key: both are equal where two texts have the same words."""
        return self._columns.first_keys.array(), self._columns.second_keys.array()

    def clusters(self, threshold: float = THRESHOLD) -> Clusters:
        """Return the clusters of all texts so far, linked by pairs of at least this Jaccard similarity."""
        first, distinct = self._distinct()
        # The shingles are mapped only while they are read: they are most of what an index in files maps.
        forest = self._forest(distinct, threshold)
        found = _beside_roots(forest.clusters(), self._rows(distinct), threshold)
        return _with_copies(found, distinct, first)

    def _forest(self, distinct: Positions, threshold: float) -> Forest:
        """Return the given texts joined by their verified pairs."""
        if self._engine == "ray":
            from pipeline_lib.curation.on_ray import forest_of

            return forest_of(self._bands(distinct), self._rows(distinct), threshold, self._workers)
        rows, forest = self._rows(distinct), Forest(len(distinct))
        for pairs in candidates(self._bands(distinct), rows, forest.roots, threshold):
            forest.link(*alike(rows, pairs, threshold, self._workers))
        return forest

    def pairs(self, threshold: float = THRESHOLD) -> tuple[Positions, Positions, Similarities]:
        """Return left, right and Jaccard of all similar pairs, left < right, sorted.

        An exact copy appears once, beside the first of its equals. Among hundreds of texts that are all alike
        only some of their pairs are listed (``candidates`` says which may be missing).
        """
        first, distinct = self._distinct()
        rows, found = self._rows(distinct), np.empty(0, np.int64)
        for pairs in candidates(self._bands(distinct), rows, np.arange(len(distinct)), threshold):
            left, right, _ = alike(rows, pairs, threshold, self._workers)
            packed = np.minimum(left, right) << 32 | np.maximum(left, right)
            found = ascending(np.append(found, packed))
        left, right, jaccards = alike(rows, (found >> 32, found & 0xFFFFFFFF), threshold, self._workers)
        copies = np.flatnonzero(first != np.arange(len(first)))
        left, right = np.append(distinct[left], first[copies]), np.append(distinct[right], copies)
        order = np.lexsort((right, left))
        return left[order], right[order], np.append(jaccards, np.ones(len(copies)))[order]

    def matches(self, queries: Texts, threshold: float = THRESHOLD) -> Matches:
        """Return for each query its most similar text of the index (the first of several), if alike enough.

        The index stays as it is; its columns are copied into memory once for each call.
        """
        both = copy(self)
        both._columns = self._columns.copied()
        both.add(queries)
        return both.matches_from(len(self), threshold)

    def matches_from(self, boundary: int, threshold: float = THRESHOLD) -> Matches:
        """Return the same for the texts from ``boundary`` on as queries, those before it as the corpus."""
        return self.matches_between(np.arange(boundary), np.arange(boundary, len(self)), threshold)

    def matches_between(self, corpus: Positions, queries: Positions, threshold: float = THRESHOLD) -> Matches:
        """Return the same for two selections of the index's texts, each numbered by its place in its own."""
        texts = np.concatenate([corpus, queries])
        first, distinct = self._distinct(texts)
        texts, sides = texts[distinct], (distinct >= len(corpus)).astype(np.int64)
        rows, best = self._rows(texts), BestPartners(len(distinct))
        for pairs in candidates(self._bands(texts), rows, sides, threshold):
            best.improve(*alike(rows, pairs, threshold, self._workers))
        return best.matches(first, distinct, len(corpus))

    def similarity(self, left: Positions, right: Positions) -> Similarities:
        """Return the Jaccard similarity of each pair of texts, whatever it is."""
        return similarities(self._rows(slice(None)), (left, right), 0.0, self._workers)

    def _bands(self, texts: Positions) -> Iterator[npt.NDArray[np.uint32]]:
        return (band.array()[texts] for band in self._columns.bands)

    def _rows(self, texts: Positions | slice) -> Rows:
        sizes = self._columns.sizes.array()
        starts: Positions = np.cumsum(sizes, dtype=np.int64) - sizes
        return Rows(self._columns.hashes.array(), starts[texts], sizes[texts])

    def _distinct(self, texts: Positions | slice = slice(None)) -> tuple[Positions, Positions]:
        """Return the first equal of each of the texts, and which of them are their own."""
        first = _first_of_equals(*(half[texts] for half in self.keys))
        return first, np.flatnonzero(first == np.arange(len(first)))


def cluster(
    texts: Texts,
    *,
    threshold: float = THRESHOLD,
    ngram: int = NGRAM,
    bands: int = BANDS,
    rows: int = ROWS,
    seed: int = 0,
    words: Alphabet | None = None,
    workers: int = 1,
) -> Clusters:
    """Return the near-duplicate clusters of the texts, linked by pairs of at least this Jaccard."""
    index = Index(ngram=ngram, bands=bands, rows=rows, seed=seed, words=words, workers=workers)
    index.add(texts)
    return index.clusters(threshold)


def matches(
    queries: Texts,
    corpus: Texts,
    threshold: float = THRESHOLD,
    *,
    ngram: int = NGRAM,
    words: Alphabet | None = None,
    workers: int = 1,
) -> Matches:
    """Return for each query its most similar text of the corpus, if any reaches the threshold."""
    index = Index(ngram=ngram, words=words, workers=workers)
    index.add(corpus)
    boundary = len(index)
    index.add(queries)
    return index.matches_from(boundary, threshold)


def _first_of_equals(first_keys: Hashes, second_keys: Hashes) -> Positions:
    """Return for each text the smallest index of a text with the same 128-bit key."""
    order = np.lexsort((second_keys, first_keys))
    changes = (np.diff(first_keys[order]) != 0) | (np.diff(second_keys[order]) != 0)
    heads = np.concatenate([np.ones(min(len(order), 1), bool), changes])
    first = np.empty(len(order), np.int64)
    first[order] = order[heads][heads.cumsum() - 1]
    return first


def _beside_roots(clusters: Clusters, rows: Rows, threshold: float) -> Clusters:
    """Return the same clusters, with the root as the partner of every text that is alike enough to it."""
    partners, jaccards = clusters.partners.copy(), clusters.jaccards.copy()
    others = np.flatnonzero(partners != clusters.roots)
    found = similarities(rows, (others, clusters.roots[others]), threshold)
    near = others[found > 0]
    partners[near], jaccards[near] = clusters.roots[near], found[found > 0]
    return Clusters(clusters.roots, partners, jaccards)


def _with_copies(clusters: Clusters, distinct: Positions, first: Positions) -> Clusters:
    """Return all texts' clusters from those of the distinct ones: a copy's partner is its first equal."""
    roots, partners = first.copy(), first.copy()
    jaccards = np.ones(len(first), np.float64)
    roots[distinct], partners[distinct] = distinct[clusters.roots], distinct[clusters.partners]
    jaccards[distinct] = clusters.jaccards
    return Clusters(roots[first], partners, jaccards)
