"""One tokenisation of a batch of texts, and what the tokens of each text measure.

A token is a word, a number or a mark. The splitter follows what spaCy's English rules do to running
text (marks come off both ends of a word, ``don't`` is ``do`` + ``n't``, ``3-4`` three tokens,
``Mr.`` one), because the web rules were published on such tokens. Texts are code points in one
array and tokens are spans in it, so that the compiled functions touch no Python object. Neighbours:
``splitter`` finds the spans, ``ngrams`` measures repetition on the same tokens, ``lines`` what is no token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline_lib.curation.quality.characters import ALPHA, PUNCTUATION, SYMBOL, TERMINAL, classes
from pipeline_lib.curation.quality.splitter import ABBREVIATIONS, ENDINGS, hash_span, is_in, jit, split


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch of texts."""

    codes: npt.NDArray[np.uint32]
    """Code points of all texts, one after the other."""
    starts: npt.NDArray[np.int64]
    """Where each token begins in ``codes``."""
    ends: npt.NDArray[np.int64]
    """Where each token ends in ``codes``."""
    bounds: npt.NDArray[np.int64]
    """The first token of each text, and the number of all tokens; shape ``(texts + 1,)``."""
    characters: npt.NDArray[np.int64]
    """The length of each text in characters."""

    def words(self) -> list[list[str]]:
        """Return the tokens of each text as strings."""
        text = self.codes.tobytes().decode("utf-32-le", "surrogatepass")
        spans = [text[a:b] for a, b in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]
        bounds = self.bounds.tolist()
        return [spans[a:b] for a, b in pairwise(bounds)]


class WordMeasures(NamedTuple):
    """What the tokens of n texts measure, before any threshold (n each)."""

    tokens: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]
    """Tokens that are not all symbols."""
    word_characters: npt.NDArray[np.int64]
    alphabetic: npt.NDArray[np.int64]
    stop_words: npt.NDArray[np.int64]
    """How many different ones."""


def tokenise(texts: Sequence[str], split_cjk: bool = False) -> Tokens:
    """Split texts into tokens; with ``split_cjk`` each ideograph and kana is a token of its own."""
    codes, offsets = _code_points(texts)
    room = len(codes) + 1
    starts, ends = np.empty(room, np.int64), np.empty(room, np.int64)
    bounds = np.zeros(len(texts) + 1, np.int64)
    split(
        codes, offsets, classes(), _hashes(ABBREVIATIONS), _hashes(ENDINGS), split_cjk, starts, ends, bounds
    )
    count = int(bounds[-1])
    return Tokens(codes, starts[:count].copy(), ends[:count].copy(), bounds, np.diff(offsets))


def from_words(texts: Sequence[str], words: Sequence[Sequence[str]]) -> Tokens:
    """Return texts with the tokens that another tokeniser found in them (one list of words per text)."""
    flat = [word for text in words for word in text]
    codes, offsets = _code_points(flat)
    bounds = np.array([0, *accumulate(map(len, words))], np.int64)
    return Tokens(codes, offsets[:-1], offsets[1:], bounds, np.array([len(text) for text in texts], np.int64))


def word_measures(tokens: Tokens, stop_words: Sequence[str] = ()) -> WordMeasures:
    """Return what the tokens of each text measure."""
    measured = np.zeros((len(tokens.bounds) - 1, len(WordMeasures._fields)), np.int64)
    stops, longest = _hashes(" ".join(stop_words)), max(map(len, stop_words), default=0)
    _measure(tokens.codes, tokens.starts, tokens.ends, tokens.bounds, classes(), stops, longest, measured)
    return WordMeasures(*measured.T)


def sentences(tokens: Tokens) -> list[int]:
    """Return the number of sentences of each text; one ends with a terminal mark and the marks after it."""
    counts = np.zeros(len(tokens.bounds) - 1, np.int64)
    _count_sentences(tokens.codes, tokens.starts, tokens.ends, tokens.bounds, classes(), counts)
    listed: list[int] = counts.tolist()
    return listed


def _code_points(texts: Sequence[str]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    return codes, np.array([0, *accumulate(map(len, texts))], np.int64)


def _hashes(words: str) -> npt.NDArray[np.uint64]:
    listed = words.split()
    codes, offsets = _code_points(listed)
    return np.array([hash_span(codes, offsets[i], offsets[i + 1]) for i in range(len(listed))], np.uint64)


@jit
def _measure(
    codes: Any,
    starts: Any,
    ends: Any,
    bounds: Any,
    classes: Any,
    stop_words: Any,
    longest: int,
    measured: Any,
) -> None:
    seen = np.full(len(stop_words), -1, np.int64)
    for text in range(len(bounds) - 1):
        row = measured[text]
        row[0] = bounds[text + 1] - bounds[text]
        for token in range(bounds[text], bounds[text + 1]):
            a, b = starts[token], ends[token]
            word = _has(codes, classes, a, b, SYMBOL, False)
            row[1] += word
            row[2] += (b - a) * word
            row[3] += word and _has(codes, classes, a, b, ALPHA, True)
            value = hash_span(codes, a, b) if b - a <= longest else np.uint64(0)
            for i in range(len(stop_words)):
                if stop_words[i] == value and seen[i] != text:
                    seen[i] = text
                    row[4] += 1


@jit
def _has(codes: Any, classes: Any, a: int, b: int, bits: int, present: bool) -> bool:
    """Return whether a span has a character of these classes (where not ``present``: one outside of them)."""
    for i in range(a, b):  # noqa: SIM110 - numba compiles no generator
        if is_in(classes, codes[i], bits) == present:
            return True
    return False


@jit
def _count_sentences(codes: Any, starts: Any, ends: Any, bounds: Any, classes: Any, counts: Any) -> None:
    for text in range(len(bounds) - 1):
        ended = False
        counts[text] = bounds[text + 1] > bounds[text]
        for token in range(bounds[text], bounds[text + 1]):
            a, b = starts[token], ends[token]
            terminal = b - a == 1 and is_in(classes, codes[a], TERMINAL)
            if ended and not terminal and _has(codes, classes, a, b, PUNCTUATION, False):
                counts[text] += 1
                ended = False
            ended |= terminal
