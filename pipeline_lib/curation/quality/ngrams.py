"""How much of a text repeats itself: frequent and repeated runs of tokens, counted in compiled code.

An n-gram is told by a 64-bit hash of its characters, so two n-grams are the same exactly where
datatrove's joined strings are. Neighbours: ``tokens`` makes the tokens, ``web`` and ``instruct``
hold the thresholds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline_lib.curation.quality.characters import LIMIT, SYMBOL, classes, lowered
from pipeline_lib.curation.quality.splitter import HASH_BASE, hash_span, is_in, jit
from pipeline_lib.curation.quality.tokens import Tokens

TOP = (2, 3, 4)
REPEATED = (5, 6, 7, 8, 9, 10)
_SPACE = np.uint64(33)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


class Repetition(NamedTuple):
    """Characters in the most frequent n-gram and in repeated n-grams of each text."""

    top: npt.NDArray[np.int64]
    """By n, as in ``TOP`` (3 by texts)."""
    repeated: npt.NDArray[np.int64]
    """By n, as in ``REPEATED`` (6 by texts)."""


class Variety(NamedTuple):
    """How varied the words of one text are, marks left out and case folded."""

    words: int
    distinct_trigrams: float
    """Distinct trigrams / trigrams; 1.0 where there are fewer than three words."""
    top_word: float
    """The share of the most frequent word; 0.0 where there is none."""


def repetition(tokens: Tokens) -> Repetition:
    """Return the characters that repeat in each text (Rae et al. 2021, arXiv 2112.11446, table A1)."""
    measured = np.zeros((len(tokens.bounds) - 1, len(TOP) + len(REPEATED)), np.int64)
    _repetition(tokens.codes, tokens.starts, tokens.ends, tokens.bounds, measured)
    return Repetition(measured.T[: len(TOP)], measured.T[len(TOP) :])


def variety(tokens: Tokens) -> list[Variety]:
    """Return how varied the words of each text are."""
    texts = len(tokens.bounds) - 1
    words, shares = np.zeros(texts, np.int64), np.zeros((texts, 2), np.float64)
    codes = _lower(tokens.codes, lowered())
    _variety(codes, tokens.starts, tokens.ends, tokens.bounds, classes(), words, shares)
    return [Variety(count, *share) for count, share in zip(words.tolist(), shares.tolist(), strict=True)]


@jit
def _lower(codes: Any, lower: Any) -> Any:
    folded = np.empty_like(codes)
    for i in range(len(codes)):
        folded[i] = lower[codes[i]] if codes[i] < LIMIT else codes[i]
    return folded


@jit
def _slots(most: int) -> int:
    """Return the size of a table for ``most`` keys: a power of two that stays at most half full."""
    size = 16
    while size < 2 * most:
        size *= 2
    return size


@jit
def _find(keys: Any, stamps: Any, stamp: int, size: int, key: Any) -> int:
    """Return the slot of ``key``, or the free one for it; a slot without ``stamp`` is free."""
    mask = np.uint64(size - 1)
    slot = ((key ^ (key >> np.uint64(29))) * _MIX >> np.uint64(20)) & mask
    while stamps[slot] == stamp and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return int(slot)


@jit
def _most(bounds: Any) -> int:
    most = 0
    for text in range(len(bounds) - 1):
        most = max(most, bounds[text + 1] - bounds[text])
    return most


@jit
def _repetition(codes: Any, starts: Any, ends: Any, bounds: Any, measured: Any) -> None:
    most = _most(bounds)
    keys, counts = np.empty(_slots(most), np.uint64), np.zeros(_slots(most), np.int64)
    stamps, places = np.zeros(_slots(most), np.int64), np.empty(most, np.int64)
    hashes, powers, at = np.empty(most, np.uint64), np.empty(most, np.uint64), np.zeros(most + 1, np.int64)
    for text in range(len(bounds) - 1):
        first, count = bounds[text], bounds[text + 1] - bounds[text]
        _token_hashes(codes, starts, ends, first, count, hashes, powers, at)
        joined, spaced = hashes[:count].copy(), hashes[:count].copy()
        for n in range(2, 11):
            stamp = text * 9 + n - 1
            _extend(joined, hashes, powers, count, n, False)
            if n < 5:
                _extend(spaced, hashes, powers, count, n, True)
                measured[text, n - 2] = _top(spaced, at, count, n, keys, counts, stamps, stamp, places)
            else:
                measured[text, n - 2] = _repeated(joined, at, count, n, keys, stamps, stamp)


@jit
def _token_hashes(
    codes: Any, starts: Any, ends: Any, first: int, count: int, hashes: Any, powers: Any, at: Any
) -> None:
    """Write each token's hash, the base to the power of its length, and the characters before it."""
    for i in range(count):
        a, b = starts[first + i], ends[first + i]
        hashes[i] = hash_span(codes, a, b)
        powers[i] = np.uint64(1)
        for _ in range(b - a):
            powers[i] *= HASH_BASE
        at[i + 1] = at[i] + b - a


@jit
def _extend(grams: Any, hashes: Any, powers: Any, count: int, n: int, spaced: bool) -> None:
    """Turn the hashes of (n-1)-grams into those of n-grams, with or without a space between tokens."""
    for i in range(count - n + 1):
        head = grams[i] * HASH_BASE + _SPACE if spaced else grams[i]
        grams[i] = head * powers[i + n - 1] + hashes[i + n - 1]


@jit
def _top(
    grams: Any, at: Any, count: int, n: int, keys: Any, counts: Any, stamps: Any, stamp: int, places: Any
) -> int:
    """Return the characters, spaces counted, of all places of the (first) most frequent n-gram."""
    size = _slots(count)
    for i in range(count - n + 1):
        slot = _find(keys, stamps, stamp, size, grams[i])
        if stamps[slot] != stamp:
            stamps[slot], keys[slot], counts[slot] = stamp, grams[i], 0
        counts[slot] += 1
        places[i] = slot
    best, length = 0, 0
    for i in range(count - n + 1):
        if counts[places[i]] > best:
            best, length = counts[places[i]], at[i + n] - at[i] + n - 1
    return best * length


@jit
def _repeated(grams: Any, at: Any, count: int, n: int, keys: Any, stamps: Any, stamp: int) -> int:
    """Return the characters of n-grams that came before; a repeated one is stepped over whole."""
    size, i, characters = _slots(count), 0, 0
    while i < count - n + 1:
        slot = _find(keys, stamps, stamp, size, grams[i])
        if stamps[slot] == stamp:
            characters += at[i + n] - at[i]
            i += n
        else:
            stamps[slot], keys[slot] = stamp, grams[i]
            i += 1
    return characters


@jit
def _variety(codes: Any, starts: Any, ends: Any, bounds: Any, classes: Any, words: Any, shares: Any) -> None:
    most = _most(bounds)
    keys, counts = np.empty(_slots(most), np.uint64), np.zeros(_slots(most), np.int64)
    stamps, places = np.zeros(_slots(most), np.int64), np.empty(most, np.int64)
    hashes, powers, at = np.empty(most, np.uint64), np.empty(most, np.uint64), np.zeros(most + 1, np.int64)
    for text in range(len(bounds) - 1):
        count = 0
        for token in range(bounds[text], bounds[text + 1]):
            if _is_word(codes, classes, starts[token], ends[token]):
                _token_hashes(codes, starts, ends, token, 1, hashes[count:], powers[count:], at[count:])
                count += 1
        words[text], shares[text, 0], shares[text, 1] = count, 1.0, 0.0
        if count:
            single = np.full(count + 1, 1)
            single[0] = 0
            shares[text, 1] = (
                _top(hashes, single.cumsum(), count, 1, keys, counts, stamps, 2 * text + 1, places) / count
            )
        if count > 2:
            shares[text, 0] = _distinct_trigrams(hashes, powers, count, keys, stamps, 2 * text + 2) / (
                count - 2
            )


@jit
def _is_word(codes: Any, classes: Any, a: int, b: int) -> bool:
    for i in range(a, b):  # noqa: SIM110 - numba compiles no generator
        if not is_in(classes, codes[i], SYMBOL):
            return True
    return False


@jit
def _distinct_trigrams(hashes: Any, powers: Any, count: int, keys: Any, stamps: Any, stamp: int) -> int:
    grams, size, distinct = hashes[:count].copy(), _slots(count), 0
    _extend(grams, hashes, powers, count, 2, True)
    _extend(grams, hashes, powers, count, 3, True)
    for i in range(count - 2):
        slot = _find(keys, stamps, stamp, size, grams[i])
        if stamps[slot] != stamp:
            stamps[slot], keys[slot] = stamp, grams[i]
            distinct += 1
    return distinct
