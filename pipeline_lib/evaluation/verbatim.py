"""Passages that a few texts share word for word with a great many: which, how long, how much of a text.

A *passage* is a run of words that stands in both. The few texts (*sought*) are indexed by the hashes of their
word n-grams; the many stream past and mark what they hold. Words that no sought text has are all alike to the
index, so memory depends on the sought texts alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline_lib.evaluation.overlap import Ragged, interned, ragged

Marks = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]

WORD = re.compile(r"\w+")
BREAK = 0
"""The number of every word that no sought text has; it also stands between two texts."""
BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Passage:
    """The longest run of words that a sought text shares with what was looked through."""

    start: int
    """Place of its first word in the text."""
    words: int
    """Its length; 0 where the text shares no n-gram."""


class Passages:
    """Texts whose n-grams of ``words`` words are looked for in other texts."""

    def __init__(self, texts: Sequence[str], words: int) -> None:
        """Index the texts; nothing is found yet."""
        self.words = words
        self._numbers: dict[str, int] = {"": BREAK}
        self._texts = interned((words_of(text) for text in texts), self._numbers)
        self._hashes, self._valid = self._grams(self._texts)
        self._sought = np.unique(self._hashes[self._valid])
        self._found = np.zeros(len(self._sought), np.bool_)

    def look_through(self, texts: Sequence[str]) -> None:
        """Mark every n-gram that one of ``texts`` holds."""
        if not len(self._sought):
            return
        number = self._numbers.get
        # A break ends each text, so that no n-gram spans two.
        known = ragged([[*(number(word, BREAK) for word in words_of(text)), BREAK] for text in texts])
        hashes, valid = self._grams(known)
        there = np.unique(hashes[valid])
        places = np.minimum(np.searchsorted(self._sought, there), len(self._sought) - 1)
        self._found[places[self._sought[places] == there]] = True

    def longest(self) -> list[Passage]:
        """The longest passage found of every sought text."""
        return [_longest(marks, self.words) for marks in self._marks()]

    def covered(self) -> npt.NDArray[np.float64]:
        """The share of every sought text's words that stand in a passage; 0 for a text without words."""
        shares = []
        for marks, length in zip(self._marks(), self._texts.lengths.tolist(), strict=True):
            inside = np.zeros(length + 1, np.int64)
            starts = np.flatnonzero(marks)
            np.add.at(inside, starts, 1)
            np.add.at(inside, starts + self.words, -1)
            shares.append(float((np.cumsum(inside)[:length] > 0).mean()) if length else 0.0)
        return np.array(shares)

    def text(self, row: int, passage: Passage) -> str:
        """The words of a passage of one sought text, lower-cased and without punctuation."""
        names = list(self._numbers)
        start = int(self._texts.offsets[row]) + passage.start
        return " ".join(names[number] for number in self._texts.values[start : start + passage.words])

    def _marks(self) -> list[Marks]:
        """For every sought text whether the n-gram that begins at each of its words was found."""
        places = np.searchsorted(self._sought, self._hashes)
        places = np.minimum(places, max(0, len(self._sought) - 1))
        there = np.zeros(len(self._hashes), np.bool_)
        if len(self._sought):
            there = self._valid & self._found[places] & (self._sought[places] == self._hashes)
        bounds = zip(self._texts.offsets[:-1], self._texts.offsets[1:], strict=True)
        return [there[begin : max(begin, end - self.words + 1)] for begin, end in bounds]

    def _grams(self, sequences: Ragged) -> tuple[Hashes, Marks]:
        """The hash of the n-gram that begins at each word, and whether it is one: whole, without a break."""
        values, total = sequences.values, len(sequences.values)
        mixed = _mixed(values.astype(np.uint64))
        hashes = np.zeros(total, np.uint64)
        for place in range(min(self.words, total)):
            hashes[: total - place] = hashes[: total - place] * BASE + mixed[place:]
        broken = np.concatenate([[0], np.cumsum(values == BREAK)])
        ends = np.repeat(sequences.offsets[1:], sequences.lengths)
        starts = np.arange(total)
        whole = starts + self.words <= ends
        last = np.minimum(starts + self.words, total)
        return hashes, whole & (broken[last] == broken[starts])


def words_of(text: str) -> list[str]:
    """The words of a text, lower-cased, without punctuation."""
    return WORD.findall(text.lower())


def _longest(marks: Marks, words: int) -> Passage:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(np.int8), [0]])))
    if not len(edges):
        return Passage(0, 0)
    starts, ends = edges[::2], edges[1::2]
    best = int(np.argmax(ends - starts))
    return Passage(int(starts[best]), int(ends[best] - starts[best]) + words - 1)


def _mixed(values: Hashes) -> Hashes:
    """Numbers scattered over 64 bits (the finisher of SplitMix64: Steele et al. 2014)."""
    mixed = (values + np.uint64(1)) * BASE
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
