"""What stands around a candidate: the words that make a bare number a phone number, a passport or nothing.

Numbers alone are ambiguous; people name what they write (`SSN: …`, `call me at …`). The windows are short so
that a word about one number does not colour the next. Used by `numeric`, `identity` and `network`.
"""

import re
from collections.abc import Iterator

SEPARATORS = " \u00a0\u2007\u2009\u202f"
"""The spaces that people put between groups of digits."""

DASHES = r"\-" + "\u2010\u2011\u2012\u2013"
"""Hyphens and the dashes that word processors turn them into, for use in a character class."""

_SIDE_BY_SIDE = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"
"""Kana, ideographs and Hangul, in which words stand side by side: a value may follow without a space.

They have no case, and where case counts (``-i``) `re` need not look for it, which takes it 10 ms a pattern.
"""

NO_WORD_BEFORE = rf"(?<!(?-i:[^\W{_SIDE_BY_SIDE}]))"
NO_WORD_AFTER = rf"(?!(?-i:[^\W{_SIDE_BY_SIDE}]))(?![年月日个個元円원])"
"""What bounds a value: no word goes on there, and no measure follows it."""

INSIDE = rf"(?-i:[^\W_{_SIDE_BY_SIDE}])"
"""A character that a word in letters goes on with."""

NO_SUM_BEFORE = r"(?:(?<!=)|(?<=[^\W\d_]{2}=))"
"""What keeps out results of arithmetic (`x = 5`, `2+2=4`) and lets in what is assigned (`phone=…`)."""

LAST_OF_THEM = re.compile(rf".*[{_SIDE_BY_SIDE}](?=[0-9A-Za-z])")


_NUMBER = re.compile("[0-9]+")
_ESCAPED_BREAK = re.compile(r"\\[nrt]")


def unescaped(text: str) -> str:
    r"""Return the text with a spelled-out `\n`, `\r` or `\t` as white space of the same length.

    Code and JSON inside a text carry them, and their letter would otherwise grow onto the value that follows.
    """
    return _ESCAPED_BREAK.sub(" \n", text) if "\\" in text else text


def words(*alternatives: str, whole: bool = True) -> re.Pattern[str]:
    """Return a pattern for any of the alternatives as words, or as what words begin with, in any case."""
    end = rf"(?!{INSIDE})" if whole else ""
    return re.compile(rf"(?<!{INSIDE})(?:{'|'.join(alternatives)}){end}", re.IGNORECASE)


REACH, AHEAD = 50, 25
"""Characters before and after a value in which a word may name it."""


def before(text: str, start: int, pattern: re.Pattern[str], reach: int = REACH) -> bool:
    """Return whether the pattern occurs in the `reach` characters before `start`."""
    return pattern.search(text, max(0, start - reach), start) is not None


def around(
    text: str, start: int, end: int, pattern: re.Pattern[str], reach: int = REACH, ahead: int = AHEAD
) -> bool:
    """Return whether the pattern occurs before `start` or in the `ahead` characters after `end`."""
    return before(text, start, pattern, reach) or pattern.search(text[end : end + ahead]) is not None


def near_numbers(text: str, before: int, after: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of a text within so many characters before and after its numbers."""
    begin, end = 0, -1
    for number in _NUMBER.finditer(text):
        if number.start() - before > end:
            if end >= 0:
                yield begin, end
            begin = max(0, number.start() - before)
        end = number.end() + after
    if end >= 0:
        yield begin, end


def digits_of(value: str) -> str:
    """Return the ASCII digits of a value, in order."""
    return "".join(character for character in value if "0" <= character <= "9")


def compact(value: str) -> str:
    """Return the letters and digits of a value, in upper case."""
    return "".join(character for character in value if character.isalnum()).upper()
