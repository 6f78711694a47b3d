"""Word n-grams that texts share with benchmark prompts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import xxhash

SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
"""Scripts without spaces between words: every character is read as one."""
WORD = re.compile(rf"(?=\w)[{SPACELESS}]|[^\W{SPACELESS}]+")
COMMON_SHARE, COMMON = 0.01, 10
"""An n-gram in more than this share, and this number, of the prompts is a template and tells nothing."""
VERY_SHORT = 5
"""Words below which a prompt stands in many an innocent text; it must be what the user asks."""


def words_of(text: str) -> list[str]:
    """Return the words of a text, lower case, without punctuation."""
    return WORD.findall(text.lower())


def ngrams(words: Sequence[str], size: int) -> list[int]:
    """Return the 64-bit hashes of all n-grams of ``size`` words, in order."""
    return [
        xxhash.xxh3_64_intdigest("\x1f".join(words[i : i + size]).encode())
        for i in range(len(words) - size + 1)
    ]


class Benchmarks:
    """Benchmark prompts, indexed by their n-grams."""

    def __init__(
        self, prompts: Sequence[tuple[str, str]], long_ngram: int, short_ngram: int, coverage: float
    ) -> None:
        """Index (name, text) pairs; n-grams are in words, the coverage is a share of a prompt's words."""
        self._long, self._short, self._coverage = long_ngram, short_ngram, coverage
        self._names = [name for name, _ in prompts]
        self._lengths: list[int] = []
        self._by_long: dict[int, int] = {}
        self._by_short: dict[int, list[tuple[int, int]]] = {}
        self._whole: dict[int, dict[int, int]] = {}
        self._probe = min(long_ngram, short_ngram, VERY_SHORT)
        self._probes: set[tuple[str, ...]] = set()
        words = [words_of(text) for _, text in prompts]
        self._templates = self._common(words)
        for index, found in enumerate(words):
            self._add(index, found)

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self._names)

    def _common(self, prompts: Sequence[list[str]]) -> set[int]:
        """Return the n-grams of a template that many different prompts share."""
        distinct = {tuple(words) for words in prompts}
        counts = Counter(
            gram for words in distinct for gram in {*ngrams(words, self._long), *ngrams(words, self._short)}
        )
        most = max(COMMON, COMMON_SHARE * len(distinct))
        return {gram for gram, count in counts.items() if count > most}

    def _add(self, index: int, words: list[str]) -> None:
        self._lengths.append(len(words))
        self._probes.update(self._probes_of(words))
        for gram in ngrams(words, self._long):
            if gram not in self._templates:
                self._by_long.setdefault(gram, index)
        for place, gram in enumerate(ngrams(words, self._short)):
            if gram not in self._templates:
                self._by_short.setdefault(gram, []).append((index, place))
        if 0 < len(words) < self._long:
            # A short prompt contaminates only as a whole, compared as one n-gram of its own length.
            self._whole.setdefault(len(words), {}).setdefault(ngrams(words, len(words))[0], index)

    def find(self, texts: Sequence[str], asked: Sequence[Sequence[str]]) -> list[str | None]:
        """Return for each text, with the user's messages in it, what it shares with which prompt, or None."""
        return [
            self._same(messages) or self._find(words_of(text))
            for text, messages in zip(texts, asked, strict=True)
        ]

    def _same(self, messages: Sequence[str]) -> str | None:
        for words in map(words_of, messages):
            prompts = self._whole.get(len(words))
            if prompts and (index := prompts.get(ngrams(words, len(words))[0])) is not None:
                return f"the same as {self._names[index]}"
        return None

    def _probes_of(self, words: list[str]) -> Iterator[tuple[str, ...]]:
        """Yield the shortest runs of words without which nothing is found: next to no text has one."""
        return zip(*(words[begin:] for begin in range(self._probe)), strict=False)

    def _find(self, words: list[str]) -> str | None:
        if self._probes.isdisjoint(self._probes_of(words)):
            return None
        for gram in ngrams(words, self._long):
            if gram in self._by_long:
                return f"{self._long}-gram of {self._names[self._by_long[gram]]}"
        for size, prompts in self._whole.items():
            for gram in ngrams(words, size) if size >= VERY_SHORT else ():
                if gram in prompts:
                    return f"the whole of {self._names[prompts[gram]]}"
        return self._covered(words)

    def _covered(self, words: list[str]) -> str | None:
        places: dict[int, set[int]] = {}
        for gram in ngrams(words, self._short):
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
