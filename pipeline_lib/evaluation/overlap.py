"""Counts what two token sequences share: n-grams, longest common subsequences, union subsequences.

The engine under `metrics`, compiled with numba. A *ragged* array holds one sequence of token numbers per
answer, laid end to end, with the offsets at which each begins. Every n-gram metric of the field (ROUGE-N,
BLEU, chrF, token F1, repetition) is the same count over another tokenization, so one kernel serves them all.
Hash tables keep their keys: the counts are exact.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

compiled = numba.njit(cache=True)  # kept on disk: only the first run waits for the compiler

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

FREE = np.int64(-1)
GOLDEN = np.int64(0x9E3779B97F4A7C15 - (1 << 64))  # 2^64 / golden ratio: Knuth, TAOCP vol. 3, section 6.4
MATCH, LEFT, UP = np.uint8(0), np.uint8(1), np.uint8(2)


@dataclass(frozen=True)
class Ragged:
    """Sequences of token numbers below 2^31: sequence i is `values[offsets[i]:offsets[i + 1]]`."""

    values: Integers
    offsets: Integers

    @property
    def lengths(self) -> Integers:
        """The number of tokens in every sequence."""
        return np.diff(self.offsets)


def ragged(sequences: Sequence[npt.NDArray[np.integer]] | Sequence[list[int]]) -> Ragged:
    """Sequences of token numbers laid end to end."""
    offsets = np.zeros(len(sequences) + 1, np.int64)
    np.cumsum([len(sequence) for sequence in sequences], out=offsets[1:])
    arrays = [np.asarray(sequence, np.int64) for sequence in sequences]
    return Ragged(np.concatenate(arrays) if arrays else np.zeros(0, np.int64), offsets)


def interned(sequences: Iterable[list[str]], vocabulary: dict[str, int]) -> Ragged:
    """Sequences of words as numbers; words not yet in the vocabulary are added to it."""
    number = vocabulary.setdefault
    return ragged([[number(word, len(vocabulary)) for word in words] for words in sequences])


def windows(sequences: Ragged, order: int) -> Integers:
    """How many n-grams of 1..order each sequence has, shape (rows, order)."""
    return np.asarray(np.maximum(sequences.lengths[:, None] - np.arange(order), 0))


def matches(predictions: Ragged, references: Ragged, order: int) -> Integers:
    """How many n-grams of 1..order each pair shares, shape (rows, order).

    An n-gram counts as often as the side that has it more rarely.
    """
    shared, _ = _ngrams(predictions.values, predictions.offsets, references.values, references.offsets, order)
    return np.asarray(shared)


def distinct(sequences: Ragged, order: int) -> Integers:
    """How many different n-grams of 1..order each sequence has, shape (rows, order)."""
    none = np.zeros(len(sequences.offsets), np.int64)
    _, different = _ngrams(sequences.values, sequences.offsets, none[:0], none, order)
    return np.asarray(different)


def subsequences(predictions: Ragged, references: Ragged) -> Integers:
    """The length of each pair's longest common subsequence, shape (rows,)."""
    return np.asarray(
        _subsequences(predictions.values, predictions.offsets, references.values, references.offsets)
    )


def union_subsequences(predictions: Ragged, references: Ragged, line_break: int) -> Integers:
    """Hits of summary-level ROUGE-L for each pair of texts whose lines end at `line_break`, shape (rows,).

    Lin 2004, section 3.2, with the clipping of ROUGE-1.5.5: a reference line's tokens count that lie on its
    longest common subsequence with any predicted line, but no token more often than either text has it. Which
    of several longest subsequences is taken follows `rouge_score`.
    """
    largest = max(int(side.values.max(initial=0)) for side in (predictions, references))
    left = np.zeros(largest + 1, np.int64)
    sides = (predictions.values, predictions.offsets, references.values, references.offsets)
    return np.asarray(_union(*sides, line_break, left))


@compiled
def _slot(keys: Integers, key: np.int64, mask: int) -> np.int64:
    """The place of a key in an open-addressed table, or the free place where it belongs."""
    slot = ((key * GOLDEN) >> np.int64(32)) & np.int64(mask)
    while keys[slot] != FREE and keys[slot] != key:
        slot = (slot + np.int64(1)) & np.int64(mask)
    return slot


@compiled
def _learn(
    tokens: Integers, n: int, ranks: Integers, keys: Integers, numbers: Integers, left: Integers
) -> int:
    """Number the n-grams of a sequence, given those one shorter in `ranks`, and count them in `left`."""
    known = 0
    for i in range(len(tokens) - n):
        key = (ranks[i] << 32) | tokens[i + n]
        slot = _slot(keys, key, len(keys) - 1)
        if keys[slot] == FREE:
            keys[slot], numbers[slot], left[known] = key, known, 0
            known += 1
        ranks[i] = numbers[slot]
        left[ranks[i]] += 1
    return known


@compiled
def _meet(
    tokens: Integers, n: int, ranks: Integers, keys: Integers, numbers: Integers, left: Integers
) -> int:
    """Count the n-grams of a second sequence that the first has, using each of the first's up once."""
    hits = 0
    for i in range(len(tokens) - n):
        if ranks[i] == FREE:
            continue
        key = (ranks[i] << 32) | tokens[i + n]
        slot = _slot(keys, key, len(keys) - 1)
        ranks[i] = FREE if keys[slot] == FREE else numbers[slot]
        if ranks[i] != FREE and left[ranks[i]] > 0:
            left[ranks[i]] -= 1
            hits += 1
    return hits


@compiled
def _table_size(tokens: int) -> int:
    """A power of two that leaves at least half of the table free."""
    size = 4
    while size < 2 * tokens:
        size *= 2
    return size


@compiled
def _ngrams(
    values: Integers, offsets: Integers, others: Integers, other_offsets: Integers, order: int
) -> tuple[Integers, Integers]:
    """Shared and different n-grams of every row, in time proportional to the tokens."""
    rows = len(offsets) - 1
    shared, different = np.zeros((rows, order), np.int64), np.zeros((rows, order), np.int64)
    for row in range(rows):
        tokens = values[offsets[row] : offsets[row + 1]]
        other = others[other_offsets[row] : other_offsets[row + 1]]
        size = _table_size(len(tokens))
        keys, numbers = np.empty(size, np.int64), np.empty(size, np.int64)
        ranks, other_ranks = np.zeros(len(tokens), np.int64), np.zeros(len(other), np.int64)
        left = np.empty(len(tokens), np.int64)
        for n in range(order):
            keys[:] = FREE
            different[row, n] = _learn(tokens, n, ranks, keys, numbers, left)
            shared[row, n] = _meet(other, n, other_ranks, keys, numbers, left)
    return shared, different


@compiled
def _subsequences(values: Integers, offsets: Integers, others: Integers, other_offsets: Integers) -> Integers:
    """Longest common subsequence lengths by dynamic programming over one row of the table."""
    lengths = np.zeros(len(offsets) - 1, np.int64)
    for row in range(len(lengths)):
        tokens = values[offsets[row] : offsets[row + 1]]
        best = np.zeros(len(tokens) + 1, np.int32)
        for token in others[other_offsets[row] : other_offsets[row + 1]]:
            diagonal = np.int32(0)
            for j in range(len(tokens)):
                above = best[j + 1]
                through = diagonal + np.int32(tokens[j] == token)
                best[j + 1] = max(above, best[j], through)
                diagonal = above
        lengths[row] = best[-1]
    return lengths


@compiled
def _mark(reference: Integers, prediction: Integers, marked: Bytes) -> None:
    """Mark the reference tokens on one longest common subsequence: the one that `rouge_score` reads out."""
    ways = np.empty((len(reference), len(prediction)), np.uint8)
    best = np.zeros(len(prediction) + 1, np.int32)
    for i in range(len(reference)):
        diagonal = np.int32(0)
        for j in range(len(prediction)):
            above = best[j + 1]
            if reference[i] == prediction[j]:
                best[j + 1], ways[i, j] = diagonal + 1, MATCH
            else:
                ways[i, j] = LEFT if best[j] > above else UP
                best[j + 1] = max(above, best[j])
            diagonal = above
    i, j = len(reference) - 1, len(prediction) - 1
    while i >= 0 and j >= 0:
        way = ways[i, j]
        if way == MATCH:
            marked[i] = 1
        if way != LEFT:
            i -= 1
        if way != UP:
            j -= 1


@compiled
def _next_break(tokens: Integers, start: int, line_break: int) -> int:
    """Where the line that begins at `start` ends."""
    while start < len(tokens) and tokens[start] != line_break:
        start += 1
    return start


@compiled
def _mark_lines(reference: Integers, prediction: Integers, line_break: int, marked: Bytes) -> None:
    """Mark the tokens of every reference line that any predicted line shares with it in order."""
    start = 0
    while start < len(reference):
        end = _next_break(reference, start, line_break)
        other = 0
        while end > start and other < len(prediction):
            other_end = _next_break(prediction, other, line_break)
            _mark(reference[start:end], prediction[other:other_end], marked[start:end])
            other = other_end + 1
        start = end + 1


@compiled
def _union(
    values: Integers,
    offsets: Integers,
    others: Integers,
    other_offsets: Integers,
    line_break: int,
    left: Integers,
) -> Integers:
    """Hits among the marked tokens, each using up one of the prediction's; `left` begins and ends at zero."""
    hits = np.zeros(len(offsets) - 1, np.int64)
    for row in range(len(hits)):
        prediction = values[offsets[row] : offsets[row + 1]]
        reference = others[other_offsets[row] : other_offsets[row + 1]]
        marked = np.zeros(len(reference), np.uint8)
        _mark_lines(reference, prediction, line_break, marked)
        for token in prediction:
            left[token] += 1
        for token in reference[marked == 1]:
            if left[token] > 0:
                left[token] -= 1
                hits[row] += 1
        left[prediction] = 0
    return hits
