"""What stands around a candidate: the words that make a bare number a phone number, a passport or nothing.

Numbers alone are ambiguous; people name what they write (`SSN: …`, `call me at …`). The windows are short so
that a word about one number does not colour the next. Used by `numeric`, `identity` and `network`.
"""

import re

SEPARATORS = " \u00a0\u2007\u2009\u202f"
"""The spaces that people put between groups of digits."""

DASHES = r"\-" + "\u2010\u2011\u2012\u2013"
"""Hyphens and the dashes that word processors turn them into, for use in a character class."""


_ESCAPED_BREAK = re.compile(r"\\[nrt]")


def unescaped(text: str) -> str:
    r"""Return the text with a spelled-out `\n`, `\r` or `\t` as white space of the same length.

    Code and JSON inside a text carry them, and their letter would otherwise grow onto the value that follows.
    """
    return _ESCAPED_BREAK.sub(" \n", text) if "\\" in text else text


def words(*alternatives: str) -> re.Pattern[str]:
    """Return a pattern for any of the alternatives as whole words, in any case."""
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(alternatives)})(?![^\W_])", re.IGNORECASE)


def before(text: str, start: int, pattern: re.Pattern[str], reach: int = 50) -> bool:
    """Return whether the pattern occurs in the `reach` characters before `start`."""
    return pattern.search(text, max(0, start - reach), start) is not None


def around(
    text: str, start: int, end: int, pattern: re.Pattern[str], reach: int = 50, ahead: int = 25
) -> bool:
    """Return whether the pattern occurs before `start` or in the `ahead` characters after `end`."""
    return before(text, start, pattern, reach) or pattern.search(text[end : end + ahead]) is not None


def digits_of(value: str) -> str:
    """Return the ASCII digits of a value, in order."""
    return "".join(character for character in value if "0" <= character <= "9")


def compact(value: str) -> str:
    """Return the letters and digits of a value, in upper case."""
    return "".join(character for character in value if character.isalnum()).upper()
