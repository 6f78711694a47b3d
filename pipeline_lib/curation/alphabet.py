"""How characters make words: one table over Unicode that the shingle kernel walks.

Every character is folded (NFKD, case-folded, NFKD again, as Unicode's NFKC_Casefold does) to a few code
points, and every folded code point has a **role**:

- ``WORD``: letters and numbers of any script; neighbours join into one word;
- ``SINGLE``: a word of its own. Scripts that put no spaces between words (Han, kana, Thai, Lao, Khmer,
  Myanmar) are read character by character, as a word 5-gram over them would otherwise be a sentence;
- ``MARK``: a combining mark, part of the word it stands in, nothing elsewhere;
- ``SKIP``: zero-width and formatting characters, which neither join nor part words;
- ``SEPARATOR``: everything else: white space, punctuation, symbols, emoji.

Composed and decomposed text, full-width and half-width forms, and ligatures therefore read alike.
``shingles`` is the only reader of the table.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Literal

import numpy as np
import numpy.typing as npt

SEPARATOR, WORD, SINGLE, MARK, SKIP = range(5)
ROLE_SHIFT = 24
PLANES = 2
MOST_WORDS_PER_BYTE = 5
"""U+FDFA folds to 15 letters from 3 bytes; no other character gives more words for its UTF-8 length."""

_SPACELESS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration mark, closing mark, zero
    (0x3040, 0x312F),  # kana, Bopomofo
    (0x31F0, 0x31FF),  # small kana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
)


@dataclass(frozen=True)
class Alphabet:
    """Folded code points with their roles: those of character ``c`` are ``flat[starts[c]:starts[c + 1]]``.

    Each entry holds the role above bit 24 and the code point below it; the first 128 entries are ASCII.
    """

    starts: npt.NDArray[np.int32]
    flat: npt.NDArray[np.uint32]


@cache
def alphabet(unit: Literal["word", "character"] = "word", symbols: str = "") -> Alphabet:
    """Return the table for n-grams of words or of characters (planes 0 and 1, built once in about 0.1 s).

    ``symbols`` lists characters that count as a word of their own instead of being stripped: with
    ``"+-*/=<>()[]{}"`` the texts ``2 + 3`` and ``2 - 3`` stay apart.
    """
    characters = [chr(code) for code in range(PLANES << 16)]
    folded = [_fold(character) for character in characters]
    starts = np.array([0, *accumulate(map(len, folded))], dtype=np.int32)
    text = "".join(folded)
    roles = dict(_roles(set(text), unit, symbols))
    codes = np.array([roles[character] << ROLE_SHIFT | ord(character) for character in text], dtype=np.uint32)
    return Alphabet(starts, codes)


def _fold(character: str) -> str:
    """Return the code points a character stands for, at least one; unassigned ones stand for themselves."""
    if character.isascii():
        return character.lower()
    if unicodedata.category(character) in ("Cn", "Co", "Cs"):
        return character
    folded = unicodedata.normalize("NFKD", character).casefold()
    return unicodedata.normalize("NFKD", folded) or character


def _roles(characters: set[str], unit: str, symbols: str) -> Iterator[tuple[str, int]]:
    word = SINGLE if unit == "character" else WORD
    for character in characters:
        role = _role(character)
        yield character, SINGLE if character in symbols else word if role == WORD else role


def _role(character: str) -> int:
    category = unicodedata.category(character)
    code = ord(character)
    if category[0] in "LN":
        return SINGLE if any(first <= code <= last for first, last in _SPACELESS) else WORD
    if category == "Cf" or 0xFE00 <= code <= 0xFE0F or 0x180B <= code <= 0x180F:
        return SKIP
    return MARK if category[0] == "M" else SEPARATOR
