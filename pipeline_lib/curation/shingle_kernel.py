# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""The compiled loop of ``shingles``: UTF-8 bytes to words, keys and sorted shingle hashes.

Hashes are multiply-and-xorshift over code points, then over words (two independent streams for the key,
a rolling polynomial with a finisher for the n-grams). All in one module, because Numba's file cache of a
kernel notices changes in its own file only.
"""

import numba
import numpy as np

from pipeline_lib.curation import alphabet as letters

kernel = numba.njit(cache=True, nogil=True)

_WORD_SEED = np.uint64(0x9E3779B97F4A7C15)
_RAW_SEED = np.uint64(0xD1B54A32D192ED03)
_STEP = np.uint64(0xBF58476D1CE4E5B9)
_MIX = np.uint64(0x94D049BB133111EB)
_GRAM = np.uint64(0xF1357AEA2E62A9C5)
_SHIFT = np.uint64(32)
_SHORT_SHIFT = np.uint64(29)
_CODE_MASK = np.uint32((1 << letters.ROLE_SHIFT) - 1)
_ROLE_SHIFT = np.uint32(letters.ROLE_SHIFT)
_TABLE_END = letters.PLANES << 16
_SEPARATOR, _WORD, _SINGLE = np.uint32(letters.SEPARATOR), np.uint32(letters.WORD), np.uint32(letters.SINGLE)
_MARK, _SKIP = np.uint32(letters.MARK), np.uint32(letters.SKIP)


@kernel
def shingle_rows(data, offsets, ngram, starts, flat, scratch, hashes, bounds, keys):
    """Fill hashes, bounds and keys for every text; return how many hashes were written."""
    used = 0
    bounds[0] = 0
    for row in range(len(offsets) - 1):
        begin, end = offsets[row], offsets[row + 1]
        count = _words(data, begin, end, starts, flat, scratch)
        if count == 0:
            scratch[0] = _raw(data, begin, end)
            count = 1
        _key(scratch, count, keys[row])
        grams = _grams(scratch, count, ngram, hashes[used:])
        used += _sorted_unique(hashes[used : used + grams])
        bounds[row + 1] = used
    return used


@kernel
def word_rows(data, offsets, starts, flat, out, bounds):
    """Fill the hashes of every text's words and where they begin; return how many were written."""
    used = 0
    bounds[0] = 0
    for row in range(len(offsets) - 1):
        used += _words(data, offsets[row], offsets[row + 1], starts, flat, out[used:])
        bounds[row + 1] = used
    return used


@kernel
def gram_rows(words, bounds, ngram, out, ends):
    """Fill the hashes of every row's runs of ``ngram`` words, in order; return how many were written."""
    used = 0
    ends[0] = 0
    for row in range(len(bounds) - 1):
        count = bounds[row + 1] - bounds[row]
        if count >= ngram:
            used += _grams(words[bounds[row] : bounds[row + 1]], count, ngram, out[used:])
        ends[row + 1] = used
    return used


@kernel
def _words(data, begin, end, starts, flat, out):
    """Write the hash of each word of ``data[begin:end]``; return how many there are."""
    count, at = 0, begin
    open_word, closed = False, False
    state = _WORD_SEED
    while at < end:
        code, at = _code_point(data, at, end)
        first, last = _entries(code, starts)
        for entry in range(first, last):
            folded = flat[entry] if code < _TABLE_END else _beyond(code)
            role = folded >> _ROLE_SHIFT
            if role == _SKIP or (role == _MARK and not open_word):
                continue
            if open_word and role != _MARK and (role != _WORD or closed):
                out[count] = state
                count += 1
                open_word = False
            if role == _SEPARATOR:
                continue
            if not open_word:
                state, open_word, closed = _WORD_SEED, True, role == _SINGLE
            state = (state ^ np.uint64(folded & _CODE_MASK)) * _STEP
            state ^= state >> _SHIFT
    if open_word:
        out[count] = state
        count += 1
    return count


@kernel
def _entries(code, starts):
    """Return where a code point's entries are; past the table, a range for the one that ``_beyond`` makes."""
    if code < 128:
        return code, code + 1
    if code < _TABLE_END:
        return np.int64(starts[code]), np.int64(starts[code + 1])
    return np.int64(0), np.int64(1)


@kernel
def _beyond(code):
    """Planes 2 and 3 are Han, plane 14 holds tags and variation selectors, the rest is private use."""
    if code < 0x40000:
        return np.uint32(code) | (_SINGLE << _ROLE_SHIFT)
    return (_SKIP if code >> 16 == 14 else _SEPARATOR) << _ROLE_SHIFT


@kernel
def _code_point(data, at, end):
    """Return the code point at a byte and where the next one begins; never reads past ``end``."""
    lead = np.int64(data[at])
    if lead < 0x80:
        return lead, at + 1
    size = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    code = lead & (0xFF >> (size + 1))
    stop = min(at + size, end)
    for byte in range(at + 1, stop):
        code = (code << 6) | np.int64(data[byte] & 0x3F)
    return code, stop


@kernel
def _raw(data, begin, end):
    state = _RAW_SEED
    for at in range(begin, end):
        state = (state ^ np.uint64(data[at])) * _STEP
        state ^= state >> _SHIFT
    return state


@kernel
def _key(words, count, out):
    """Write two independent 64-bit hashes of the sequence of words."""
    first, second = _STEP, _WORD_SEED
    for at in range(count):
        first = (first ^ words[at]) * _MIX
        first ^= first >> _SHIFT
        second = (second + words[at]) * _GRAM
        second ^= second >> _SHORT_SHIFT
    out[0], out[1] = first, second


@kernel
def _grams(words, count, ngram, out):
    """Write the hashes of all runs of ``ngram`` words, by a rolling polynomial; return how many."""
    width = min(ngram, count)
    leaving = np.uint64(1)
    for _ in range(width):
        leaving *= _GRAM
    state, used = np.uint64(0), 0
    for at in range(count):
        state = state * _GRAM + words[at]
        if at >= width:
            state -= words[at - width] * leaving
        if at >= width - 1:
            mixed = (state ^ (state >> _SHIFT)) * _STEP
            mixed = (mixed ^ (mixed >> _SHORT_SHIFT)) * _MIX
            out[used] = mixed ^ (mixed >> _SHIFT)
            used += 1
    return used


@kernel
def _sorted_unique(row):
    """Sort a row in place, move its distinct values to the front and return how many they are."""
    row.sort()
    used = 1
    for at in range(1, len(row)):
        if row[at] != row[used - 1]:
            row[used] = row[at]
            used += 1
    return used
