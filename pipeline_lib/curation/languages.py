"""The language of a text, told offline: py3langid carries its model."""

from __future__ import annotations

LETTERS = 50
"""Fewest letters of a text whose language can be told."""
READ = 500
"""Characters that are looked at; more of a text tells no more."""


def language_of(text: str, letters: int = LETTERS) -> str | None:
    """Return the language (ISO 639-1) of a text with enough letters; Chinese in its kinds is one language."""
    beginning = text[:READ]
    if sum(map(str.isalpha, beginning)) < letters:
        return None
    import py3langid

    language = str(py3langid.classify(beginning)[0])
    return "zh" if language in ("wuu", "yue") else language
