"""The compiled splitter: where tokens begin and end in an array of code points.

What stands between two spaces is a chunk. Marks come off its front (a prefix) and its end (a
suffix: marks, ``'s``, ``n't``, a full stop that belongs to no abbreviation); what is left is cut at
infixes (``-`` between letters, ``,`` between letters, ``/`` before a letter, an ellipsis). The
rules are those of spaCy's English tokeniser that occur in running text. Neighbours: ``tokens``
calls it, ``characters`` has the classes.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from pipeline_lib.curation.quality.characters import (
    AFFIX,
    ALPHA,
    CJK,
    DIGIT,
    ICON,
    LIMIT,
    SPACE,
    SYMBOL,
    UPPER,
)

HASH_BASE = np.uint64(0x9E3779B97F4A7C15)
_DOT, _DASH, _APOSTROPHE, _QUOTE, _AT, _COLON, _SLASH, _PLUS = map(ord, ".-'’@:/+")
_EN_DASH, _EM_DASH, _TILDE, _COMMA, _LESS, _EQUAL, _MORE, _STAR, _CARET = map(ord, "–—~,<=>*^")
_ELLIPSIS = ord("…")
ABBREVIATIONS = (
    "Mr. Mrs. Ms. Dr. Prof. St. Jr. Gen. Gov. Rep. Rev. Sen. Adm. Messrs. Mt. Bros. Co. Corp. Inc. Ltd. "
    "Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec. "
    "e.g. i.e. E.g. I.e. a.m. p.m. vs. v.s. co. Ph.D."
)
ENDINGS = "'s ’s 'S ’S 'll ’ll 're ’re 've ’ve 'm ’m 'd ’d n't n’t"

jit = numba.njit(cache=True, nogil=True)


@jit
def hash_span(codes: Any, start: int, end: int) -> Any:
    """Return the polynomial hash (modulo 2^64) of a span; equal spans have equal hashes."""
    value = np.uint64(0)
    for i in range(start, end):
        value = value * HASH_BASE + np.uint64(codes[i]) + np.uint64(1)
    return value


@jit
def is_in(classes: Any, code: Any, bits: int) -> bool:
    """Return whether a code point is in one of the classes ``bits``."""
    return bool(code < LIMIT and (classes[code] & bits) != 0)


@jit
def _holds(hashes: Any, value: Any) -> bool:
    for known in hashes:  # noqa: SIM110 - numba compiles no generator
        if known == value:
            return True
    return False


@jit
def split(
    codes: Any,
    offsets: Any,
    classes: Any,
    abbreviations: Any,
    endings: Any,
    split_cjk: bool,
    starts: Any,
    ends: Any,
    bounds: Any,
) -> None:
    """Write the span of every token and, per text, the number of tokens up to its end.

    ``abbreviations`` and ``endings`` are hashes; ``starts`` and ``ends`` have room for a token per character.
    """
    count = 0
    for text in range(len(offsets) - 1):
        at, stop = offsets[text], offsets[text + 1]
        while at < stop:
            if is_in(classes, codes[at], SPACE):
                at += 1
                continue
            end, plain = at, True
            while end < stop and not is_in(classes, codes[end], SPACE):
                plain &= is_in(classes, codes[end], ALPHA) and not (
                    split_cjk and is_in(classes, codes[end], CJK)
                )
                end += 1
            if plain:
                starts[count], ends[count], count = at, end, count + 1
            else:
                count = _split_chunk(
                    codes, classes, abbreviations, endings, split_cjk, at, end, starts, ends, count
                )
            at = end
        bounds[text + 1] = count


@jit
def _split_chunk(
    codes: Any,
    classes: Any,
    abbreviations: Any,
    endings: Any,
    split_cjk: bool,
    a: int,
    b: int,
    starts: Any,
    ends: Any,
    count: int,
) -> int:
    """Write the tokens of the characters between two spaces and return the new count."""
    stop, size, end = b, 1, b
    while a < b and size:
        size = 0 if _holds_whole(codes, abbreviations, a, b) else _prefix(codes, classes, a, b)
        if size:
            starts[count], ends[count] = a, a + size
            a, count = a + size, count + 1
    size, suffixes = 1, 0
    while stop > a and size:
        size = _suffix(codes, classes, abbreviations, endings, a, stop)
        stop, suffixes = stop - size, suffixes + (size > 0)
    count = _split_inside(codes, classes, split_cjk, a, stop, starts, ends, count)
    for i in range(suffixes - 1, -1, -1):
        size = _suffix(codes, classes, abbreviations, endings, a, end)
        starts[count + i], ends[count + i] = end - size, end
        end -= size
    return count + suffixes


@jit
def _holds_whole(codes: Any, abbreviations: Any, a: int, b: int) -> bool:
    return 2 < b - a < 8 and codes[b - 1] == _DOT and _holds(abbreviations, hash_span(codes, a, b))


@jit
def _prefix(codes: Any, classes: Any, a: int, b: int) -> int:
    """Return how many characters come off the front of a chunk (0: none)."""
    if codes[a] == _DOT:
        return _dots(codes, a, b)
    if codes[a] == _PLUS:
        return 0 if a + 1 < b and is_in(classes, codes[a + 1], DIGIT) else 1
    return 1 if is_in(classes, codes[a], AFFIX) else 0


@jit
def _dots(codes: Any, a: int, b: int) -> int:
    """Return the length of an ellipsis of two dots or more at ``a``, else 0."""
    end = a
    while end < b and codes[end] == _DOT:
        end += 1
    return end - a if end - a > 1 else 0


@jit
def _suffix(codes: Any, classes: Any, abbreviations: Any, endings: Any, a: int, b: int) -> int:
    """Return how many characters come off the end of a chunk (0: none)."""
    last = codes[b - 1]
    if last == _DOT:
        return _final_dots(codes, classes, abbreviations, a, b)
    if last == _DASH:
        return 2 if b - a > 2 and codes[b - 2] == _DASH else 0
    for size in (3, 2):
        # The apostrophe is the ending's first character or, in n't, its second.
        marked = b - a > size and (_is_apostrophe(codes[b - 2]) or _is_apostrophe(codes[b - size]))
        if marked and _holds(endings, hash_span(codes, b - size, b)):
            return size
    if last in (_PLUS, _EQUAL):
        return 1 if last == _PLUS and b - a > 1 and is_in(classes, codes[b - 2], DIGIT) else 0
    return 1 if is_in(classes, last, AFFIX) else 0


@jit
def _is_apostrophe(code: int) -> bool:
    return code in (_APOSTROPHE, _QUOTE)


@jit
def _final_dots(codes: Any, classes: Any, abbreviations: Any, a: int, b: int) -> int:
    start = b
    while start > a and codes[start - 1] == _DOT:
        start -= 1
    if b - start > 1:
        return b - start
    if b - a < 2 or _holds_whole(codes, abbreviations, a, b):
        return 0
    before = codes[b - 2]
    if not is_in(classes, before, ALPHA):
        return 1 if is_in(classes, before, DIGIT | AFFIX | SYMBOL) else 0
    if b - a == 2:
        return 0
    return 1 if not is_in(classes, before, UPPER) or is_in(classes, codes[b - 3], UPPER) else 0


@jit
def _split_inside(
    codes: Any, classes: Any, split_cjk: bool, a: int, b: int, starts: Any, ends: Any, count: int
) -> int:
    """Write what is between the affixes, cut at infixes; an address stays whole."""
    address = _is_address(codes, classes, a, b)
    at, i = a, a
    while i < b:
        size = 0 if address else _infix(codes, classes, i, a, b)
        if not size and split_cjk and is_in(classes, codes[i], CJK):
            size = 1
        if size:
            if i > at:
                starts[count], ends[count], count = at, i, count + 1
            starts[count], ends[count], count = i, i + size, count + 1
            at = i + size
        i += max(size, 1)
    if b > at:
        starts[count], ends[count], count = at, b, count + 1
    return count


@jit
def _is_address(codes: Any, classes: Any, a: int, b: int) -> bool:
    """Return whether a chunk has ``://``, or ``@`` or letters around a dot before any other mark."""
    for i in range(a + 1, b - 2):
        if codes[i] == _COLON:
            return bool(codes[i + 1] == _SLASH and codes[i + 2] == _SLASH)
        if codes[i] == _AT or codes[i] == _SLASH:
            return bool(codes[i] == _AT)
        if codes[i] == _DOT:
            return is_in(classes, codes[i + 1], ALPHA) and not is_in(classes, codes[i + 1], UPPER)
        if is_in(classes, codes[i], AFFIX):
            return False
    return False


@jit
def _infix(codes: Any, classes: Any, i: int, a: int, b: int) -> int:
    """Return the length of the mark at ``i`` that parts a chunk (0: none)."""
    code = codes[i]
    if code == _ELLIPSIS or (code == _DOT and _dots(codes, i, b)):
        return max(_dots(codes, i, b), 1)
    if is_in(classes, code, ALPHA | DIGIT) or i == a:
        return 0
    end = i + 1
    while end < b and codes[end] == code and code == _DASH:
        end += 1
    if end >= b:
        return 0
    return end - i if _parts(code, classes, codes[i - 1], codes[end]) else 0


@jit
def _parts(code: int, classes: Any, before: int, after: int) -> bool:
    if is_in(classes, code, ICON):
        return True
    letters = is_in(classes, before, ALPHA) and is_in(classes, after, ALPHA)
    if code == _COMMA:
        return letters
    if code in (_DASH, _EN_DASH, _EM_DASH, _TILDE):
        bound = ALPHA | DIGIT if code == _DASH else ALPHA
        return is_in(classes, before, ALPHA | DIGIT) and is_in(classes, after, bound)
    if code in (_COLON, _LESS, _EQUAL, _MORE, _SLASH):
        return is_in(classes, before, ALPHA | DIGIT) and is_in(classes, after, ALPHA)
    if code == _DOT:
        return letters and not is_in(classes, before, UPPER) and is_in(classes, after, UPPER)
    arithmetic = code in (_PLUS, _STAR, _CARET)
    return arithmetic and is_in(classes, before, DIGIT) and (is_in(classes, after, DIGIT) or after == _DASH)
