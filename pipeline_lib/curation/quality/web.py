"""Rules for text from the web: Gopher quality, Gopher repetition, C4 and FineWeb.

``measure`` computes the figures of many texts at once; each rule compares one of them with its limit, for all
texts, and has the evidence where it fires. On the same tokens the verdict is datatrove 0.10.1's. The rules
know prose: on answers, code or Chinese they drop most of what is good, so they judge other kinds of text
only where the config says so. Neighbours: ``tokens``, ``lines`` and ``ngrams`` count, ``limits`` has the
thresholds and their papers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline_lib.curation.quality.limits import WebLimits, over, under
from pipeline_lib.curation.quality.lines import Counts, Lines, line_measures
from pipeline_lib.curation.quality.ngrams import REPEATED, TOP, Repetition, repetition
from pipeline_lib.curation.quality.tokens import WordMeasures, sentences, tokenise, word_measures

_CITATIONS = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_MARKS = (".", "?", "!", '"', "'")
_POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)


class Counted(NamedTuple):
    """What C4 leaves of a text: the lines that count, or the mark that spoils the whole."""

    lines: list[str]
    spoilt: str | None


@dataclass(frozen=True, slots=True)
class WebMeasures:
    """The figures of n texts."""

    characters: Counts
    words: WordMeasures
    repetition: Repetition
    lines: Lines
    spoilt: list[str | None]
    """The mark by which C4 drops a text; empty where C4's rules are not asked, and so is what follows."""
    c4_sentences: Counts


class Evidence(NamedTuple):
    """Which of n texts a rule drops, and what it says about one of them."""

    fires: npt.NDArray[np.bool_]
    detail: Callable[[int], str]


Figures = npt.NDArray[Any]
WebRule = Callable[[WebMeasures, WebLimits], Iterator[Evidence]]


def measure(texts: Sequence[str], limits: WebLimits) -> WebMeasures:
    """Return the figures of the texts, from one tokenisation."""
    tokens = tokenise(texts)
    counted = [c4_lines(text, limits) for text in texts] if limits.c4 else []
    ended = iter(sentences(tokenise([line for text in counted for line in text.lines])))
    return WebMeasures(
        tokens.characters,
        word_measures(tokens, limits.gopher_stop_words),
        repetition(tokens),
        line_measures(tokens, limits.fineweb_short_line_characters, limits.c4_paragraph_characters),
        [text.spoilt for text in counted],
        np.array([sum(islice(ended, len(text.lines))) for text in counted], np.int64),
    )


def judge(measures: WebMeasures, limits: WebLimits) -> list[tuple[str, str] | None]:
    """Return for each text the first rule that fires, by name, with its evidence; None where it is kept."""
    verdicts: list[tuple[str, str] | None] = [None] * len(measures.characters)
    undecided = np.ones(len(verdicts), np.bool_)
    wanted = (limits.gopher_quality, limits.gopher_repetition, limits.c4, limits.fineweb)
    for family, rules in zip(wanted, FAMILIES.values(), strict=True):
        for rule in rules if family else ():
            for fires, detail in rule(measures, limits):
                for text in np.flatnonzero(fires & undecided).tolist():
                    verdicts[text] = rule.__name__, detail(text)
                undecided &= ~fires
    return verdicts


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


def _over(values: Figures, bound: float | None, what: str) -> Iterator[Evidence]:
    """Yield which values are over their bound, where there is one."""
    if bound is not None:
        yield Evidence(values > bound, lambda text: str(over(values[text].item(), bound, what)))


def _under(values: Figures, bound: float | None, what: str) -> Iterator[Evidence]:
    """Yield which values are under their bound, where there is one."""
    if bound is not None:
        yield Evidence(values < bound, lambda text: str(under(values[text].item(), bound, what)))


def _per(counts: Counts, whole: Counts) -> Figures:
    return counts / np.maximum(whole, 1)


def too_few_words(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text with fewer words than a page has."""
    yield from _under(m.words.words, limits.gopher_min_words, "words")


def too_many_words(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text with more words than a page has."""
    yield from _over(m.words.words, limits.gopher_max_words, "words")


def short_words(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text whose words are too short in the mean to be prose."""
    length = _per(m.words.word_characters, m.words.words)
    yield from _under(length, limits.gopher_min_word_length, "mean characters")


def long_words(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text whose words are too long in the mean to be prose."""
    length = _per(m.words.word_characters, m.words.words)
    yield from _over(length, limits.gopher_max_word_length, "mean characters")


def hash_marks(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text with too many hash marks per word."""
    yield from _over(_per(m.lines.hash_marks, m.words.tokens), limits.gopher_max_symbols, "per word")


def ellipses(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text with too many ellipses per word."""
    yield from _over(_per(m.lines.ellipses, m.words.tokens), limits.gopher_max_symbols, "per word")


def bullet_lines(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text of which nearly every line is a bullet point."""
    yield from _over(_per(m.lines.bullets, m.lines.lines), limits.gopher_max_bullet_lines, "share of lines")


def ellipsis_lines(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text with many lines cut short by an ellipsis."""
    share = _per(m.lines.ellipsis_lines, m.lines.lines)
    yield from _over(share, limits.gopher_max_ellipsis_lines, "share of lines")


def few_alphabetic_words(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text with many words that have no letter."""
    share = _per(m.words.alphabetic, m.words.tokens)
    yield from _under(share, limits.gopher_min_alphabetic, "share of words")


def few_stop_words(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text with hardly any of the words that every English page has."""
    yield from _under(m.words.stop_words, limits.gopher_min_stop_words, "stop words")


def empty_text(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text of nothing but space."""
    yield Evidence(m.lines.filled == 0, lambda text: "no characters")


def repeated_paragraphs(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text with many paragraphs that came before."""
    parts = _per(m.lines.repeated_paragraphs, m.lines.paragraphs)
    yield from _over(parts, limits.gopher_max_repeated_paragraphs, "share of paragraphs")
    share = _per(m.lines.repeated_paragraph_characters, m.characters)
    yield from _over(share, limits.gopher_max_repeated_paragraph_characters, "share of characters")


def repeated_lines(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text with many lines that came before."""
    parts = _per(m.lines.repeated_blocks, m.lines.blocks)
    yield from _over(parts, limits.gopher_max_repeated_lines, "share of lines")
    share = _per(m.lines.repeated_block_characters, m.characters)
    yield from _over(share, limits.gopher_max_repeated_line_characters, "share of characters")


def frequent_ngram(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text of which one run of two to four words makes up much."""
    for n, characters, bound in zip(TOP, m.repetition.top, limits.gopher_max_top_ngrams, strict=True):
        yield from _over(_per(characters, m.characters), bound, f"{n}-gram")


def repeated_ngrams(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text with many runs of five to ten words that came before."""
    given = zip(REPEATED, m.repetition.repeated, limits.gopher_max_repeated_ngrams, strict=True)
    for n, characters, bound in given:
        yield from _over(_per(characters, m.characters), bound, f"{n}-gram")


def spoilt_page(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a page in the making, or code: lorem ipsum or a curly bracket."""
    fires = np.array([mark is not None for mark in m.spoilt], np.bool_)
    yield Evidence(fires, lambda text: f"holds {m.spoilt[text]}")


def too_few_sentences(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text with fewer sentences than a page has, in the lines that count."""
    yield from _under(m.c4_sentences, limits.c4_min_sentences, "sentences")


def too_few_paragraphs(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text with fewer long lines than an article has."""
    yield from _under(m.lines.long, limits.c4_min_paragraphs, "long lines")


def few_terminal_lines(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text of which hardly a line ends like a sentence."""
    share = _per(m.lines.terminal, m.lines.filled)
    yield from _under(share, limits.fineweb_min_terminal_lines, "share of lines")


def short_lines(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text of which most lines are as short as a menu's."""
    yield from _over(_per(m.lines.short, m.lines.filled), limits.fineweb_max_short_lines, "share of lines")


def repeated_line_characters(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a text with characters in lines that came before."""
    share = _per(m.lines.repeated_filled_characters, m.characters - m.lines.newlines)
    yield from _over(share, limits.fineweb_max_repeated_line_characters, "share of characters")


def many_newlines(m: WebMeasures, limits: WebLimits) -> Iterator[Evidence]:
    """Drop a list rather than a text."""
    yield from _over(_per(m.lines.newlines, m.words.tokens), limits.fineweb_max_newlines, "per token")


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
