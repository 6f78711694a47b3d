"""What the lines, paragraphs and marks of texts measure, counted in compiled code.

Lines and paragraphs are told by a 64-bit hash of their characters, so that those that came before are counted
without a Python object for each. Neighbours: ``tokens`` has the texts as code points, ``web`` the thresholds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline_lib.curation.quality.characters import SPACE, TERMINAL, classes
from pipeline_lib.curation.quality.splitter import hash_span, is_in, jit
from pipeline_lib.curation.quality.tokens import Tokens

Counts = npt.NDArray[np.int64]

_NEWLINE, _RETURN, _DOT, _HASH, _DASH, _BULLET, _ELLIPSIS = map(ord, "\n\r.#-•…")
_LINE_ENDS = tuple(map(ord, "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"))
_FIRST_PRINTED, _LAST_ASCII = map(ord, " ~")


class Lines(NamedTuple):
    """What n texts measure besides their words (n each)."""

    newlines: Counts
    hash_marks: Counts
    ellipses: Counts
    lines: Counts
    """Lines as Python's ``splitlines`` has them."""
    bullets: Counts
    ellipsis_lines: Counts
    blocks: Counts
    """Parts between runs of newlines, as Gopher's repetition rules take them."""
    repeated_blocks: Counts
    repeated_block_characters: Counts
    filled: Counts
    """Lines that are not blank, as FineWeb's rules take them."""
    repeated_filled_characters: Counts
    terminal: Counts
    short: Counts
    long: Counts
    paragraphs: Counts
    repeated_paragraphs: Counts
    repeated_paragraph_characters: Counts


def line_measures(tokens: Tokens, short: int, long: int) -> Lines:
    """Return the figures of each text; a short line has at most, a long one at least so many characters."""
    offsets = np.concatenate([np.zeros(1, np.int64), tokens.characters.cumsum()])
    measured = np.zeros((len(tokens.characters), len(Lines._fields)), np.int64)
    _measure(tokens.codes, offsets, classes(), short, long, measured)
    return Lines(*measured.T)


@jit
def _measure(codes: Any, offsets: Any, classes: Any, short: int, long: int, measured: Any) -> None:
    for text in range(len(offsets) - 1):
        a, b, row = offsets[text], offsets[text + 1], measured[text]
        row[0], row[1], row[2] = _marks(codes, a, b)
        row[3], row[4], row[5] = _lines(codes, classes, a, b)
        hashes, sizes = np.empty(row[0] + 1, np.uint64), np.empty(row[0] + 1, np.int64)
        _parts(codes, classes, a, b, short, long, hashes, sizes, row[6:14])
        while a < b and is_in(classes, codes[a], SPACE):
            a += 1
        while a < b and is_in(classes, codes[b - 1], SPACE):
            b -= 1
        row[14] = _paragraphs(codes, a, b, hashes, sizes)
        row[15], row[16] = _again(hashes[: row[14]], sizes[: row[14]])


@jit
def _marks(codes: Any, a: int, b: int) -> tuple[int, int, int]:
    """Return how many newlines, hash marks and ellipses there are."""
    newlines, hash_marks, ellipses, dots = 0, 0, 0, 0
    for i in range(a, b):
        newlines += codes[i] == _NEWLINE
        hash_marks += codes[i] == _HASH
        dots = dots + 1 if codes[i] == _DOT else 0
        if dots == 3 or codes[i] == _ELLIPSIS:
            ellipses, dots = ellipses + 1, 0
    return newlines, hash_marks, ellipses


@jit
def _lines(codes: Any, classes: Any, a: int, b: int) -> tuple[int, int, int]:
    """Return how many lines there are, how many begin with a bullet, and how many end with an ellipsis."""
    lines, bullets, ellipses = 0, 0, 0
    while a < b:
        end = a
        while end < b and not _ends_line(codes[end]):
            end += 1
        first, last = a, end
        while first < end and is_in(classes, codes[first], SPACE):
            first += 1
        while last > first and is_in(classes, codes[last - 1], SPACE):
            last -= 1
        lines += 1
        if first < last:
            bullets += codes[first] == _BULLET or codes[first] == _DASH
            ellipses += codes[last - 1] == _ELLIPSIS or _ends_in_dots(codes, first, last)
        both = end + 1 < b and codes[end] == _RETURN and codes[end + 1] == _NEWLINE
        a = end + 1 + both
    return lines, bullets, ellipses


@jit
def _ends_line(code: int) -> bool:
    return not _FIRST_PRINTED <= code <= _LAST_ASCII and code in _LINE_ENDS


@jit
def _ends_in_dots(codes: Any, a: int, b: int) -> bool:
    return b - a > 2 and codes[b - 1] == _DOT and codes[b - 2] == _DOT and codes[b - 3] == _DOT


@jit
def _parts(
    codes: Any, classes: Any, a: int, b: int, short: int, long: int, hashes: Any, sizes: Any, row: Any
) -> None:
    """Write what the parts between newlines measure; the hashes of blank ones are kept behind the others."""
    filled, blank, begin = 0, len(hashes), a
    while begin <= b:
        end = begin
        while end < b and codes[end] != _NEWLINE:
            end += 1
        size = end - begin
        row[7] += size >= long
        if not _is_blank(codes, classes, begin, end):
            hashes[filled], sizes[filled], filled = hash_span(codes, begin, end), size, filled + 1
            row[5] += is_in(classes, codes[end - 1], TERMINAL)
            row[6] += size <= short
        elif size or begin == a or end == b:
            blank -= 1
            hashes[blank], sizes[blank] = hash_span(codes, begin, end), size
        begin = end + 1
    again, characters = _again(hashes[:filled], sizes[:filled])
    blank_again, blank_characters = _again(hashes[blank:], sizes[blank:])
    row[0], row[1] = filled + len(hashes) - blank, again + blank_again
    row[2], row[3], row[4] = characters + blank_characters, filled, characters


@jit
def _is_blank(codes: Any, classes: Any, a: int, b: int) -> bool:
    for i in range(a, b):  # noqa: SIM110 - numba compiles no generator
        if not is_in(classes, codes[i], SPACE):
            return False
    return True


@jit
def _paragraphs(codes: Any, a: int, b: int, hashes: Any, sizes: Any) -> int:
    """Write the hashes and sizes of the parts between two newlines and more; return how many there are."""
    count, begin, end = 0, a, a
    while end <= b:
        if end == b or (codes[end] == _NEWLINE and codes[end + 1] == _NEWLINE):
            hashes[count], sizes[count], count = hash_span(codes, begin, end), end - begin, count + 1
            while end < b and codes[end] == _NEWLINE:
                end += 1
            begin = end
        end += 1
    return count


@jit
def _again(hashes: Any, sizes: Any) -> tuple[int, int]:
    """Return how many parts came before, and their characters."""
    order = np.argsort(hashes)
    again, characters = 0, 0
    for i in range(1, len(order)):
        if hashes[order[i]] == hashes[order[i - 1]]:
            again, characters = again + 1, characters + sizes[order[i]]
    return again, characters
