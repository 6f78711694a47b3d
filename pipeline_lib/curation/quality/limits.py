"""Every threshold of the quality rules: default, bounds, meaning, source; and the presets.

The field defaults are the preset ``instruct``. A preset is a set of other defaults; what a config
states itself always wins. ``null`` (or ``false``, ``off``) turns a rule off. Neighbours: ``web``
and ``instruct`` hold the rules. Sources named below: Gopher = Rae et al. 2021 (arXiv 2112.11446),
section A1.1 and table A1; C4 = Raffel et al. 2020 (JMLR 21/140), section 2.2; mC4 = Xue et al. 2021
(arXiv 2010.11934), section 3.1; FineWeb = Penedo et al. 2024 (arXiv 2406.17557), section 3.6;
"measured" = tuned on public instruction sets until what fell was what a reader would drop.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline_lib.core.config import StageConfig
from pipeline_lib.curation.languages import LETTERS

Preset = Literal["instruct", "chat", "web", "code", "none"]


def _off(value: Any) -> Any:
    # YAML reads ``off`` as false; for a threshold both mean that there is none.
    if value is True:
        raise ValueError("give a number, or off")
    return None if value is False else value


Count = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_off)]
Share = Annotated[Annotated[float, Field(ge=0, le=1)] | None, BeforeValidator(_off)]
Ratio = Annotated[Annotated[float, Field(ge=0)] | None, BeforeValidator(_off)]
Words = tuple[str, ...]


class Bounds(StageConfig):
    """Between which two numbers a score is good."""

    min: float | None = Field(default=None, description="Smallest good score; none sets no bound.")
    max: float | None = Field(default=None, description="Greatest good score; none sets no bound.")

    @model_validator(mode="after")
    def _bounds_something(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("give a min, a max or both")
        return self


def over(value: float, bound: float | None, what: str) -> str | None:
    """Return the evidence that ``value`` is over its bound; None where it is not, or there is no bound."""
    return f"{what} {value:.4g} > {bound:g}" if bound is not None and value > bound else None


def under(value: float, bound: float | None, what: str) -> str | None:
    """Return the evidence that ``value`` is under its bound; None where it is not, or there is no bound."""
    return f"{what} {value:.4g} < {bound:g}" if bound is not None and value < bound else None


def number_of(value: object) -> float | None:
    """Return a score from the metadata as a number, however it is written; None where it is none."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return None if math.isnan(number) else number


PLACEHOLDERS: Words = (
    "<noinput>",
    "<nooutput>",
    "no output",
    "n/a",
    "[your answer here]",
    "[insert answer here]",
    "todo",
    "tbd",
)
REFUSALS: Words = (
    "as an ai language model",
    "as a language model",
    "as an ai assistant",
    "as an artificial intelligence",
    "i'm just an ai",
    "i am just an ai",
    "i'm sorry, but i can't assist",
    "i'm sorry, but i cannot assist",
    "i'm sorry, but i can't help with that",
    "i cannot fulfill your request",
    "i can't fulfill that request",
    "my knowledge cutoff",
    "作为一个ai语言模型",
    "作为一个人工智能",
    "作为人工智能",
    "作为ai语言模型",
)


class InstructLimits(StageConfig):
    """What an answer must be like, with its prompt; judged turn by turn."""

    equal_pair: bool = Field(
        default=True, description="Drop a preference pair whose two answers are the same."
    )
    empty_answer: bool = Field(
        default=True, description="Drop an answer with nothing in it that calls no tool."
    )
    placeholder: bool = Field(
        default=True, description="Drop an answer that is a placeholder, or holds `{{name}}` or lorem ipsum."
    )
    placeholders: Words = Field(
        default=PLACEHOLDERS, description="What is a placeholder when it is the whole answer, case folded."
    )
    refusal: bool = Field(default=True, description="Drop an answer that holds one of the refusal phrases.")
    refusal_phrases: Words = Field(
        default=REFUSALS, description="Phrases of a chatbot that speaks of itself or declines, case folded."
    )
    echo: bool = Field(default=True, description="Drop an answer that only repeats its prompt.")
    echo_from_characters: int = Field(
        default=20,
        ge=1,
        description="Shortest answer, in characters, that can be an echo (short ones quote).",
    )
    min_prompt_characters: Count = Field(default=1, description="Fewest characters of a prompt (measured).")
    max_prompt_characters: Count = Field(
        default=100_000, description="Most characters of a prompt (measured)."
    )
    min_answer_characters: Count = Field(
        default=1,
        description="Fewest characters that all answers of a conversation have together (measured).",
    )
    max_answer_characters: Count = Field(
        default=32_768, description="Most characters of one answer (measured)."
    )
    min_answer_tokens: Count = Field(
        default=None, description="Fewest tokens of one answer, by the base model's tokenizer."
    )
    max_answer_tokens: Count = Field(
        default=None, description="Most tokens of one answer, by the base model's tokenizer."
    )
    max_conversation_tokens: Count = Field(
        default=None,
        description="Most tokens of all that is said, by the base model's tokenizer; the chat template's "
        "marks come on top. What is longer than tokenize.max_length is cut or dropped there.",
    )
    scores: dict[str, Bounds] = Field(
        default={},
        description="Bounds of scores by their key in the metadata: those of `score`, or of the source. "
        "`{ifd: {max: 1}}` drops answers that their prompt makes no likelier (Li et al. 2023, "
        "arXiv 2308.12032).",
    )
    min_answer_prompt_ratio: Ratio = Field(
        default=None, description="Smallest length of an answer over that of its prompt, in characters."
    )
    max_answer_prompt_ratio: Ratio = Field(
        default=None, description="Greatest length of an answer over that of its prompt, in characters."
    )
    cut_off: bool = Field(
        default=True, description="Drop an answer in sentences whose last one stops in the middle."
    )
    cut_off_from_characters: int = Field(
        default=100, ge=0, description="Shortest answer, in characters, that can be cut off (measured)."
    )
    cut_off_from_sentences: int = Field(
        default=8,
        ge=1,
        description="Whole sentences before an open end that make it a cut (measured).",
    )
    min_distinct_trigrams: Share = Field(
        default=0.3, description="Smallest share of distinct word trigrams in an answer (measured)."
    )
    max_word_share: Share = Field(
        default=0.5, description="Greatest share of the most frequent word in an answer (measured)."
    )
    repetition_from_words: int = Field(
        default=30, ge=1, description="Fewest words of an answer whose repetition is judged."
    )
    broken_fence: bool = Field(
        default=True, description="Drop an answer with a code fence that is opened and not closed."
    )
    broken_markup: bool = Field(
        default=True, description="Drop an answer with unclosed tags or a chat template's control marks."
    )
    language_mismatch: bool = Field(
        default=False, description="Drop an answer in another language than its prompt (py3langid)."
    )
    languages: Words = Field(
        default=(),
        description="Languages (ISO 639-1) that an answer may be in (py3langid); empty allows all.",
    )
    language_from_letters: int = Field(
        default=LETTERS, ge=1, description="Fewest letters of a text whose language is judged."
    )
    toxic_words: Words = Field(
        default=(), description="Words, case folded, that neither prompt nor answer may hold."
    )

    @property
    def counts_tokens(self) -> bool:
        """Whether any limit is in tokens, for which a tokenizer is needed."""
        limits = (self.min_answer_tokens, self.max_answer_tokens, self.max_conversation_tokens)
        return any(limit is not None for limit in limits)


class WebLimits(StageConfig):
    """What a text from the web must be like."""

    # Documentation and other good texts that are no web pages fall to these rules almost to the last one.
    web_rules: Literal["texts", "all", "none"] = Field(
        default="none",
        description="What the web rules judge: plain texts (role text), all (answers as well), or none.",
    )
    gopher_quality: bool = Field(default=True, description="Apply Gopher's quality rules.")
    gopher_min_words: Count = Field(
        default=50, description="Fewest words that are not all symbols (Gopher A1.1)."
    )
    gopher_max_words: Count = Field(
        default=100_000, description="Most words that are not all symbols (Gopher A1.1)."
    )
    gopher_min_word_length: Ratio = Field(
        default=3.0, description="Smallest mean word length in characters (Gopher A1.1)."
    )
    gopher_max_word_length: Ratio = Field(
        default=10.0, description="Greatest mean word length in characters (Gopher A1.1)."
    )
    gopher_max_symbols: Ratio = Field(
        default=0.1, description="Most hash marks, or ellipses, per word (Gopher A1.1)."
    )
    gopher_max_bullet_lines: Share = Field(
        default=0.9, description="Greatest share of lines that begin with a bullet (Gopher A1.1)."
    )
    gopher_max_ellipsis_lines: Share = Field(
        default=0.3, description="Greatest share of lines that end with an ellipsis (Gopher A1.1)."
    )
    gopher_min_alphabetic: Share = Field(
        default=0.8, description="Smallest share of words with a letter (Gopher A1.1)."
    )
    gopher_min_stop_words: Count = Field(default=2, description="Fewest different stop words (Gopher A1.1).")
    gopher_stop_words: Words = Field(
        default=("the", "be", "to", "of", "and", "that", "have", "with"),
        description="The stop words, as they are written (Gopher A1.1).",
    )
    gopher_repetition: bool = Field(default=True, description="Apply Gopher's repetition rules.")
    gopher_max_repeated_paragraphs: Share = Field(
        default=0.3, description="Greatest share of paragraphs that came before (Gopher table A1)."
    )
    gopher_max_repeated_paragraph_characters: Share = Field(
        default=0.2, description="Their greatest share of characters (Gopher table A1)."
    )
    gopher_max_repeated_lines: Share = Field(
        default=0.3, description="Greatest share of lines that came before (Gopher table A1)."
    )
    gopher_max_repeated_line_characters: Share = Field(
        default=0.2, description="Their greatest share of characters (Gopher table A1)."
    )
    gopher_max_top_ngrams: tuple[Share, Share, Share] = Field(
        default=(0.20, 0.18, 0.16),
        description="Most characters in the most frequent 2-, 3-, 4-gram, as shares (Gopher table A1).",
    )
    gopher_max_repeated_ngrams: tuple[Share, Share, Share, Share, Share, Share] = Field(
        default=(0.15, 0.14, 0.13, 0.12, 0.11, 0.10),
        description="Most characters in repeated 5- to 10-grams, as shares (Gopher table A1).",
    )
    c4: bool = Field(default=True, description="Apply C4's rules.")
    c4_terminal_marks: bool = Field(
        default=False,
        description="Count only lines that end with a mark (C4 does, FineWeb's recipe does not).",
    )
    c4_min_line_words: int = Field(
        default=3, ge=0, description="Fewest words of a line that counts (C4 2.2, as in the paper's code)."
    )
    c4_max_word_characters: int = Field(
        default=1000, ge=1, description="Longest word, in characters, of a line that counts (C4's code)."
    )
    c4_min_sentences: Count = Field(
        default=5, description="Fewest sentences in the lines that count (C4 2.2)."
    )
    c4_lorem_ipsum: bool = Field(default=True, description="Drop a text with lorem ipsum (C4 2.2).")
    c4_curly_bracket: bool = Field(default=True, description="Drop a text with a curly bracket (C4 2.2).")
    c4_min_paragraphs: Count = Field(default=None, description="Fewest long lines; mC4 asks for 3 (mC4 3.1).")
    c4_paragraph_characters: int = Field(
        default=200, ge=1, description="Shortest line, in characters, that is a long one (mC4 3.1)."
    )
    fineweb: bool = Field(default=True, description="Apply FineWeb's own rules.")
    fineweb_min_terminal_lines: Share = Field(
        default=0.12, description="Smallest share of lines that end with a sentence mark (FineWeb 3.6)."
    )
    fineweb_max_short_lines: Share = Field(
        default=0.67, description="Greatest share of short lines (FineWeb 3.6)."
    )
    fineweb_short_line_characters: int = Field(
        default=30, ge=1, description="Longest line, in characters, that is short (FineWeb 3.6)."
    )
    fineweb_max_repeated_line_characters: Share = Field(
        default=0.01, description="Greatest share of characters in repeated lines (FineWeb 3.6)."
    )
    fineweb_max_newlines: Ratio = Field(
        default=0.3, description="Most newlines per token (FineWeb's code, list rule)."
    )


_NO_INSTRUCT_RULES: dict[str, Any] = {
    **dict.fromkeys(
        (
            "equal_pair",
            "empty_answer",
            "placeholder",
            "refusal",
            "echo",
            "cut_off",
            "broken_fence",
            "broken_markup",
        ),
        False,
    ),
    **dict.fromkeys(
        ("min_prompt_characters", "max_prompt_characters", "min_answer_characters", "max_answer_characters"),
        None,
    ),
    **dict.fromkeys(("min_distinct_trigrams", "max_word_share"), None),
}
PRESETS: dict[str, dict[str, Any]] = {
    "instruct": {},
    "chat": {"echo": False, "max_word_share": None},
    "web": {**_NO_INSTRUCT_RULES, "web_rules": "all"},
    "code": {
        "cut_off": False,
        "broken_markup": False,
        "min_distinct_trigrams": None,
        "max_word_share": None,
    },
    "none": _NO_INSTRUCT_RULES,
}
"""What each preset changes in the defaults above."""
