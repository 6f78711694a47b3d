"""Rules for text from the web: Gopher quality, Gopher repetition, C4 and FineWeb.

``measure`` computes a text's figures once; each rule compares one of them with its limit and
answers the evidence, or None. On the same tokens the verdict is datatrove 0.10.1's. The rules know
prose: on answers, code or Chinese they drop most of what is good, so they judge other kinds of text
only where the config says so. Neighbours: ``tokens`` and ``ngrams`` count, ``limits`` has the
thresholds and their papers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from pipeline_lib.curation.quality.characters import TERMINALS
from pipeline_lib.curation.quality.limits import WebLimits, over, under
from pipeline_lib.curation.quality.ngrams import Repetition, repetition
from pipeline_lib.curation.quality.tokens import Tokens, WordMeasures, sentences, tokenise, word_measures

_PARAGRAPHS, _LINES = re.compile(r"\n{2,}"), re.compile(r"\n+")
_CITATIONS = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_MARKS = (".", "?", "!", '"', "'")
_BULLETS, _ELLIPSES = ("•", "-"), ("...", "…")
_POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)


class Repeats(NamedTuple):
    """How many parts of a text came before, and their characters."""

    parts: int
    again: int
    characters: int


class Lines(NamedTuple):
    """What the lines of a text measure."""

    lines: int
    bullets: int
    ellipses: int
    paragraphs: Repeats
    blocks: Repeats
    """Lines between runs of newlines, as Gopher's repetition rules take them."""
    filled: Repeats
    """Lines that are not blank, as FineWeb's rules take them."""
    terminal: int
    short: int


class Counted(NamedTuple):
    """What C4 leaves of a text: the lines that count, or the mark that spoils the whole."""

    lines: list[str]
    spoilt: str | None


@dataclass(frozen=True, slots=True)
class WebMeasures:
    """The figures of one text."""

    text: str
    words: WordMeasures
    repetition: Repetition
    lines: Lines
    c4: Counted
    c4_sentences: int


WebRule = Callable[[WebMeasures, WebLimits], str | None]
Tokeniser = Callable[[Sequence[str]], Tokens]


def measure(texts: Sequence[str], limits: WebLimits, split: Tokeniser = tokenise) -> list[WebMeasures]:
    """Return the figures of each text, from one tokenisation by ``split``."""
    tokens = split(texts)
    words, repeated = word_measures(tokens, limits.gopher_stop_words), repetition(tokens)
    counted = [c4_lines(text, limits) if limits.c4 else Counted([], None) for text in texts]
    ended = iter(sentences(split([line for text in counted for line in text.lines])))
    rows = zip(texts, words, repeated, counted, strict=True)
    return [
        WebMeasures(text, word, repeats, _lines(text, limits), c4, sum(islice(ended, len(c4.lines))))
        for text, word, repeats, c4 in rows
    ]


def judge(measures: WebMeasures, limits: WebLimits) -> tuple[str, str] | None:
    """Return the first rule that fires, by name, with its evidence; None where the text is kept."""
    wanted = (limits.gopher_quality, limits.gopher_repetition, limits.c4, limits.fineweb)
    for family, rules in zip(wanted, FAMILIES.values(), strict=True):
        for rule in rules if family else ():
            detail = rule(measures, limits)
            if detail is not None:
                return rule.__name__, detail
    return None


def c4_lines(text: str, limits: WebLimits) -> Counted:
    """Return the lines of a text that count for C4, citations taken out."""
    kept: list[str] = []
    for full in text.splitlines():
        words = full.split()
        line = _CITATIONS.sub("", full.strip()) if "[" in full else full.strip()
        longest = max(map(len, words), default=0) if len(full) > limits.c4_max_word_characters else 0
        if longest > limits.c4_max_word_characters:
            continue
        if limits.c4_terminal_marks and (not line.endswith(_MARKS) or line.endswith("...")):
            continue
        if len(words) < limits.c4_min_line_words:
            continue
        low = line.lower()
        if limits.c4_lorem_ipsum and "lorem ipsum" in low:
            return Counted(kept, "lorem ipsum")
        if "javascript" in low:
            continue
        if limits.c4_curly_bracket and "{" in line:
            return Counted(kept, "{")
        if not any(phrase in low for phrase in _POLICIES):
            kept.append(line)
    return Counted(kept, None)


def _lines(text: str, limits: WebLimits) -> Lines:
    lines = text.splitlines()
    parts = text.split("\n")
    filled = [line for line in parts if line and not line.isspace()]
    gaps = "\n\n" in text
    return Lines(
        len(lines),
        sum(line.lstrip().startswith(_BULLETS) for line in lines),
        sum(line.rstrip().endswith(_ELLIPSES) for line in lines),
        _repeats(_PARAGRAPHS.split(text.strip())) if gaps else Repeats(1, 0, 0),
        _repeats(_LINES.split(text) if gaps else parts),
        _repeats(filled),
        sum(line[-1] in TERMINALS for line in filled),
        sum(len(line) <= limits.fineweb_short_line_characters for line in filled),
    )


def _repeats(parts: list[str]) -> Repeats:
    if len(set(parts)) == len(parts):
        return Repeats(len(parts), 0, 0)
    seen: set[str] = set()
    again = [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
    return Repeats(len(parts), len(again), sum(map(len, again)))


def too_few_words(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text with fewer words than a page has."""
    return under(m.words.words, limits.gopher_min_words, "words")


def too_many_words(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text with more words than a page has."""
    return over(m.words.words, limits.gopher_max_words, "words")


def short_words(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text whose words are too short in the mean to be prose."""
    return under(
        m.words.word_characters / max(m.words.words, 1), limits.gopher_min_word_length, "mean characters"
    )


def long_words(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text whose words are too long in the mean to be prose."""
    return over(
        m.words.word_characters / max(m.words.words, 1), limits.gopher_max_word_length, "mean characters"
    )


def hash_marks(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text with too many hash marks per word."""
    return over(m.text.count("#") / max(m.words.tokens, 1), limits.gopher_max_symbols, "per word")


def ellipses(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text with too many ellipses per word."""
    return over(
        sum(map(m.text.count, _ELLIPSES)) / max(m.words.tokens, 1), limits.gopher_max_symbols, "per word"
    )


def bullet_lines(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text of which nearly every line is a bullet point."""
    return over(m.lines.bullets / max(m.lines.lines, 1), limits.gopher_max_bullet_lines, "share of lines")


def ellipsis_lines(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text with many lines cut short by an ellipsis."""
    return over(m.lines.ellipses / max(m.lines.lines, 1), limits.gopher_max_ellipsis_lines, "share of lines")


def few_alphabetic_words(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text with many words that have no letter."""
    return under(m.words.alphabetic / max(m.words.tokens, 1), limits.gopher_min_alphabetic, "share of words")


def few_stop_words(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text with hardly any of the words that every English page has."""
    return under(m.words.stop_words, limits.gopher_min_stop_words, "stop words")


def empty_text(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text of nothing but space."""
    return None if m.lines.filled.parts else "no characters"


def repeated_paragraphs(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text with many paragraphs that came before."""
    repeats = m.lines.paragraphs
    parts, share = repeats.again / repeats.parts, repeats.characters / max(len(m.text), 1)
    return over(parts, limits.gopher_max_repeated_paragraphs, "share of paragraphs") or over(
        share, limits.gopher_max_repeated_paragraph_characters, "share of characters"
    )


def repeated_lines(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text with many lines that came before."""
    repeats = m.lines.blocks
    parts, share = repeats.again / repeats.parts, repeats.characters / max(len(m.text), 1)
    return over(parts, limits.gopher_max_repeated_lines, "share of lines") or over(
        share, limits.gopher_max_repeated_line_characters, "share of characters"
    )


def frequent_ngram(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text of which one run of two to four words makes up much."""
    return _first_ngram(m.repetition.top, limits.gopher_max_top_ngrams, 2, len(m.text))


def repeated_ngrams(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text with many runs of five to ten words that came before."""
    return _first_ngram(m.repetition.repeated, limits.gopher_max_repeated_ngrams, 5, len(m.text))


def _first_ngram(
    characters: tuple[int, ...], bounds: tuple[float | None, ...], first: int, length: int
) -> str | None:
    for n, (count, bound) in enumerate(zip(characters, bounds, strict=True), first):
        detail = over(count / max(length, 1), bound, f"{n}-gram")
        if detail:
            return detail
    return None


def spoilt_page(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a page in the making, or code: lorem ipsum or a curly bracket."""
    return f"holds {m.c4.spoilt}" if m.c4.spoilt else None


def too_few_sentences(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text with fewer sentences than a page has, in the lines that count."""
    return under(m.c4_sentences, limits.c4_min_sentences, "sentences")


def too_few_paragraphs(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text with fewer long lines than an article has."""
    long = sum(len(line) >= limits.c4_paragraph_characters for line in m.text.split("\n"))
    return under(long, limits.c4_min_paragraphs, "long lines")


def few_terminal_lines(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text of which hardly a line ends like a sentence."""
    return under(
        m.lines.terminal / max(m.lines.filled.parts, 1), limits.fineweb_min_terminal_lines, "share of lines"
    )


def short_lines(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text of which most lines are as short as a menu's."""
    return over(
        m.lines.short / max(m.lines.filled.parts, 1), limits.fineweb_max_short_lines, "share of lines"
    )


def repeated_line_characters(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a text with characters in lines that came before."""
    length = max(len(m.text) - m.text.count("\n"), 1)
    return over(
        m.lines.filled.characters / length, limits.fineweb_max_repeated_line_characters, "share of characters"
    )


def many_newlines(m: WebMeasures, limits: WebLimits) -> str | None:
    """Drop a list rather than a text."""
    return over(m.text.count("\n") / max(m.words.tokens, 1), limits.fineweb_max_newlines, "per token")


FAMILIES: dict[str, tuple[WebRule, ...]] = {
    "gopher_quality": (
        too_few_words,
        too_many_words,
        short_words,
        long_words,
        hash_marks,
        ellipses,
        bullet_lines,
        ellipsis_lines,
        few_alphabetic_words,
        few_stop_words,
    ),
    "gopher_repetition": (empty_text, repeated_paragraphs, repeated_lines, frequent_ngram, repeated_ngrams),
    "c4": (spoilt_page, too_few_sentences, too_few_paragraphs),
    "fineweb": (empty_text, few_terminal_lines, short_lines, repeated_line_characters, many_newlines),
}
"""The rules in the order in which they are asked; the first that fires is the reason."""
