"""Word n-grams that texts share with benchmark prompts, and prompts that are asked in nearly the same words.

Words are those of ``alphabet``, n-grams 64-bit hashes. Next to no text shares as much as the shortest run of
words without which nothing is found; only one that does is looked at more closely.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline_lib.curation.near_duplicates import Index
from pipeline_lib.curation.shingles import Runs, words_of

Hashes: TypeAlias = npt.NDArray[np.uint64]

COMMON_SHARE, COMMON = 0.01, 10
"""An n-gram in more than this share, and this number, of the prompts is a template and tells nothing."""
VERY_SHORT = 5
"""Words below which a prompt stands in many an innocent text; it must be what the user asks."""
_FILTER = np.uint64((1 << 22) - 1)


class Benchmarks:
    """Benchmark prompts, indexed by their n-grams."""

    def __init__(
        self,
        prompts: Sequence[tuple[str, str]],
        long_ngram: int,
        short_ngram: int,
        coverage: float,
        similarity: float,
    ) -> None:
        """Index (name, text) pairs; n-grams are in words, the coverage is a share of a prompt's words.

        ``similarity`` is the Jaccard of word 5-grams from which on a message asks what a prompt does.
        """
        self._long, self._short, self._coverage = long_ngram, short_ngram, coverage
        self._similarity = similarity
        self._names = [name for name, _ in prompts]
        self._by_long: dict[int, int] = {}
        self._by_short: dict[int, list[tuple[int, int]]] = {}
        self._whole: dict[int, dict[int, int]] = {}
        texts = [text for _, text in prompts]
        words = words_of(texts)
        self._lengths = words.sizes.tolist()
        self._templates = self._common(words)
        self._probe = min(long_ngram, short_ngram, VERY_SHORT)
        self._probes = np.unique(words.grams(self._probe).hashes)
        self._filter = np.zeros(int(_FILTER) + 1, np.bool_)
        self._filter[self._probes & _FILTER] = True
        self._prompts = Index()
        self._prompts.add(texts)
        for index in range(len(words)):
            self._add(index, words.of(index))

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self._names)

    def _common(self, words: Runs) -> set[int]:
        """Return the n-grams of a template that many different prompts share."""
        distinct = {words.of(index).hashes.tobytes(): index for index in range(len(words))}.values()
        sizes = {self._long, self._short}
        grams = [np.unique(words.of(index).grams(size).hashes) for index in distinct for size in sizes]
        values, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *grams]), return_counts=True)
        return set(values[counts > max(COMMON, COMMON_SHARE * len(distinct))].tolist())

    def _add(self, index: int, words: Runs) -> None:
        for gram in _grams(words, self._long):
            if gram not in self._templates:
                self._by_long.setdefault(gram, index)
        for place, gram in enumerate(_grams(words, self._short)):
            if gram not in self._templates:
                self._by_short.setdefault(gram, []).append((index, place))
        size = len(words.hashes)
        if 0 < size < self._long:
            # A short prompt contaminates only as a whole, compared as one n-gram of its own length.
            self._whole.setdefault(size, {}).setdefault(_grams(words, size)[0], index)

    def find(self, texts: Sequence[str], asked: Sequence[Sequence[str]]) -> list[str | None]:
        """Return for each text, with the user's messages in it, what it shares with which prompt, or None."""
        words = words_of(texts)
        found: list[str | None] = [None] * len(texts)
        for row in self._suspects(words):
            found[row] = self._shared(words.of(row))
        for row, hit in self._asked(asked):
            found[row] = hit
        return found

    def _suspects(self, words: Runs) -> list[int]:
        """Return the texts with a run of words without which nothing is found."""
        grams = words.grams(self._probe)
        likely = np.flatnonzero(self._filter[grams.hashes & _FILTER])
        hits = likely[np.isin(grams.hashes[likely], self._probes)]
        return [int(row) for row in np.unique(np.searchsorted(grams.bounds, hits, side="right") - 1)]

    def _asked(self, asked: Sequence[Sequence[str]]) -> Iterator[tuple[int, str]]:
        """Yield the conversations whose user asks what a prompt does, the surest reason last."""
        rows = [row for row, messages in enumerate(asked) for _ in messages]
        texts = [text for messages in asked for text in messages]
        near = self._prompts.matches(texts, self._similarity)
        for query, prompt, jaccard in zip(
            near.queries.tolist(), near.partners.tolist(), near.jaccards.tolist(), strict=True
        ):
            yield rows[query], f"like {self._names[prompt]} (Jaccard {jaccard:.2f})"
        words = words_of(texts)
        for message, size in enumerate(words.sizes.tolist()):
            prompts = self._whole.get(size)
            if prompts and (index := prompts.get(_grams(words.of(message), size)[0])) is not None:
                yield rows[message], f"the same as {self._names[index]}"

    def _shared(self, words: Runs) -> str | None:
        for gram in _grams(words, self._long):
            if gram in self._by_long:
                return f"{self._long}-gram of {self._names[self._by_long[gram]]}"
        for size, prompts in self._whole.items():
            for gram in _grams(words, size) if size >= VERY_SHORT else ():
                if gram in prompts:
                    return f"the whole of {self._names[prompts[gram]]}"
        return self._covered(words)

    def _covered(self, words: Runs) -> str | None:
        places: dict[int, set[int]] = {}
        for gram in _grams(words, self._short):
            for index, place in self._by_short.get(gram, ()):
                places.setdefault(index, set()).add(place)
        for index, found in places.items():
            covered = self._short + sum(
                min(self._short, after - before) for before, after in pairwise(sorted(found))
            )
            if covered >= self._coverage * self._lengths[index]:
                share = min(1.0, covered / self._lengths[index])
                return f"{share:.0%} of {self._names[index]} by {self._short}-grams"
        return None


def _grams(words: Runs, size: int) -> list[int]:
    return [int(gram) for gram in words.grams(size).hashes]
