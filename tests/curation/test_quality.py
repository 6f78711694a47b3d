"""The quality rules say what datatrove says on the same tokens, and drop what a reader would drop."""

import json
import re
from collections import Counter
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.curation.quality import instruct, web
from pipeline_lib.curation.quality.instruct import Talk, Turn
from pipeline_lib.curation.quality.limits import InstructLimits, WebLimits
from pipeline_lib.curation.quality.lines import Lines, line_measures
from pipeline_lib.curation.quality.ngrams import repetition, variety
from pipeline_lib.curation.quality.tokens import from_words, sentences, tokenise, word_measures

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ORACLE = DATA / "conformance" / "datatrove_0.10.1_filter_decisions.jsonl"
ONLY: dict[str, dict[str, Any]] = {
    "gopher_quality": {"gopher_quality": True},
    "gopher_repetition": {"gopher_repetition": True},
    "c4_quality": {"c4": True, "c4_terminal_marks": True},
    "c4_nopunct": {"c4": True},
    "fineweb_quality": {"fineweb": True},
    "c4_paragraph": {
        "c4": True,
        "c4_min_paragraphs": 3,
        "c4_min_sentences": None,
        "c4_lorem_ipsum": False,
        "c4_curly_bracket": False,
    },
}
AGREEMENT = {
    "gopher_quality": 0.99,
    "gopher_repetition": 0.975,
    "c4_quality": 0.995,
    "c4_nopunct": 0.995,
    "fineweb_quality": 0.995,
    "c4_paragraph": 1.0,
}
WORDS = st.sampled_from(["a", "b", "aa", "ab", "ba", "the", "-", "--", "..."])


def only(setting: str) -> WebLimits:
    """Return limits with one family of rules switched on, as one of datatrove's filters has it."""
    off = {"gopher_quality": False, "gopher_repetition": False, "c4": False, "fineweb": False}
    return WebLimits.model_validate({**off, **ONLY[setting]})


@lru_cache(maxsize=1)
def oracle() -> list[dict[str, Any]]:
    """Return datatrove's decisions on real texts."""
    if not ORACLE.exists():
        pytest.skip("the conformance oracle is not on this machine")
    with ORACLE.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.parametrize("setting", list(ONLY))
def test_our_tokens_give_datatroves_decision(setting: str) -> None:
    rows, limits = oracle(), only(setting)
    verdicts = web.judge(web.measure([row["text"] for row in rows], limits), limits)
    agreed = sum(
        (verdict is None) == row["decisions"][setting]["keep"]
        for row, verdict in zip(rows, verdicts, strict=True)
    )
    assert agreed / len(rows) >= AGREEMENT[setting]


@pytest.mark.parametrize("setting", ["gopher_quality", "gopher_repetition", "c4_nopunct", "fineweb_quality"])
def test_datatrove_decides_the_same_on_our_tokens(setting: str) -> None:
    filters = pytest.importorskip("datatrove.pipeline.filters")
    data = pytest.importorskip("datatrove.data")
    base = pytest.importorskip("datatrove.utils.word_tokenizers").WordTokenizer
    methods = {
        "word_tokenize": lambda self, text: tokenise([text]).words()[0],
        "sent_tokenize": lambda self, text: [""] * sentences(tokenise([text]))[0],
        "span_tokenize": lambda self, text: [(0, 0)] * sentences(tokenise([text]))[0],
    }
    tokens = type("Ours", (base,), methods)("en")
    made = {
        "gopher_quality": lambda: filters.GopherQualityFilter(language=tokens),
        "gopher_repetition": lambda: filters.GopherRepetitionFilter(language=tokens),
        "c4_nopunct": lambda: filters.C4QualityFilter(language=tokens, filter_no_terminal_punct=False),
        "fineweb_quality": lambda: filters.FineWebQualityFilter(language=tokens),
    }[setting]()
    texts, limits = [row["text"] for row in oracle()], only(setting)
    for text, ours in zip(texts, web.judge(web.measure(texts, limits), limits), strict=True):
        theirs = made.filter(data.Document(text=text, id="0"))
        assert (theirs is True) == (ours is None), text


def characters_of_top(words: list[str], n: int) -> int:
    """Return len x count of the most frequent n-gram, joined by spaces."""
    grams = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    if not grams:
        return 0
    gram, count = max(grams.items(), key=lambda item: item[1])
    return len(gram) * count


def characters_repeated(words: list[str], n: int) -> int:
    """Return the characters of n-grams seen before; after one the scan goes on behind it."""
    seen: set[str] = set()
    at, characters = 0, 0
    while at + n <= len(words):
        gram = "".join(words[at : at + n])
        characters += len(gram) * (gram in seen)
        at += n if gram in seen else 1
        seen.add(gram)
    return characters


@given(st.lists(st.lists(WORDS, max_size=60), min_size=1, max_size=4))
def test_repetition_is_that_of_joined_strings(texts: list[list[str]]) -> None:
    measured = repetition(from_words([" ".join(words) for words in texts], texts))
    for place, words in enumerate(texts):
        assert measured.top[:, place].tolist() == [characters_of_top(words, n) for n in (2, 3, 4)]
        assert measured.repeated[:, place].tolist() == [characters_repeated(words, n) for n in range(5, 11)]


@given(st.lists(st.lists(WORDS, max_size=40), min_size=1, max_size=4))
def test_variety_counts_distinct_trigrams_and_the_top_word(texts: list[list[str]]) -> None:
    measured = variety(from_words([" ".join(words) for words in texts], texts))
    for words, found in zip(texts, measured, strict=True):
        spoken = [word for word in words if word.isalpha()]
        grams = list(zip(spoken, spoken[1:], spoken[2:], strict=False))
        assert found.words == len(spoken)
        assert found.top_word == (max(Counter(spoken).values()) / len(spoken) if spoken else 0)
        assert found.distinct_trigrams == (len(set(grams)) / len(grams) if grams else 1)


@given(st.lists(st.text(max_size=80), min_size=1, max_size=5), st.booleans())
def test_tokens_hold_every_character_but_spaces_in_order(texts: list[str], split_cjk: bool) -> None:
    words = tokenise(texts, split_cjk).words()
    assert ["".join(found) for found in words] == ["".join(text.split()) for text in texts]


@given(st.lists(st.text(alphabet="ab .-'\n", max_size=60), min_size=2, max_size=6))
def test_a_text_measures_the_same_alone_and_in_a_batch(texts: list[str]) -> None:
    limits = WebLimits(gopher_min_words=None)
    alone = [web.judge(web.measure([text], limits), limits)[0] for text in texts]
    assert web.judge(web.measure(texts, limits), limits) == alone


def came_before(parts: list[str]) -> list[str]:
    """Return the parts that an equal one stands before."""
    return [part for place, part in enumerate(parts) if part in parts[:place]]


@given(st.lists(st.text(alphabet="ab .-•…#\n\r\x0b\u2028", max_size=60), min_size=1, max_size=5))
def test_lines_measure_what_python_says_of_them(texts: list[str]) -> None:
    measured = line_measures(tokenise(texts), 3, 5)
    for place, text in enumerate(texts):
        found = Lines(*(column[place] for column in measured))
        lines, filled = text.splitlines(), [line for line in text.split("\n") if line.strip()]
        assert found[:3] == (text.count("\n"), text.count("#"), text.count("...") + text.count("…"))
        assert found.lines == len(lines)
        assert found.bullets == sum(line.strip().startswith(("•", "-")) for line in lines)
        assert found.ellipsis_lines == sum(line.strip().endswith(("...", "…")) for line in lines)
        assert found.filled == len(filled)
        assert found.repeated_filled_characters == len("".join(came_before(filled)))
        assert found.terminal == sum(line.endswith(".") for line in filled)
        assert found.short == sum(len(line) <= 3 for line in filled)
        assert found.long == sum(len(line) >= 5 for line in text.split("\n"))
        blocks, paragraphs = re.split("\n+", text), re.split("\n\n+", text.strip())
        assert found[6:9] == (len(blocks), len(came_before(blocks)), len("".join(came_before(blocks))))
        again = came_before(paragraphs)
        assert found[14:] == (len(paragraphs), len(again), len("".join(again)))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ('He said: "I don\'t."', ["He", "said", ":", '"', "I", "do", "n't", ".", '"']),
        ("Mr. Smith's well-known U.S. case", ["Mr.", "Smith", "'s", "well", "-", "known", "U.S.", "case"]),
        ("wait... what?!", ["wait", "...", "what", "?", "!"]),
        ("see https://a.org/b?c=d, ok", ["see", "https://a.org/b?c=d", ",", "ok"]),
        ("pages 3-4 and 1,000.", ["pages", "3", "-", "4", "and", "1,000", "."]),
        ("and/or a@b.org", ["and", "/", "or", "a@b.org"]),
        ("", []),
    ],
)
def test_tokens_are_words_and_marks(text: str, tokens: list[str]) -> None:
    assert tokenise([text]).words() == [tokens]


def test_ideographs_are_tokens_where_asked_for() -> None:
    assert tokenise(["你好 world"], split_cjk=True).words() == [["你", "好", "world"]]


def test_sentences_end_at_marks_and_not_at_abbreviations() -> None:
    texts = ["", "One", "One. Two", 'He said "no." Then he left.', "Mr. A. Smith came at 3.5 p.m. today!"]
    assert sentences(tokenise(texts)) == [0, 1, 2, 2, 1]


def test_word_measures_count_words_letters_and_different_stop_words() -> None:
    found = word_measures(tokenise(["", "the cat -- and the 12 dogs"]), ("the", "and", "of"))
    assert [column.tolist() for column in found] == [[0, 7], [0, 6], [0, 18], [0, 5], [0, 2]]


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("", "too_few_words", "words 0 < 50"),
        ("that have " * 60, "frequent_ngram", "2-gram"),
        (
            "\n".join(f"that {i * 101} have this {i * 103} - {{" for i in range(60)),
            "few_alphabetic_words",
            "< 0.8",
        ),
    ],
)
def test_a_web_rule_states_its_figure_and_bound(text: str, reason: str, detail: str) -> None:
    limits = WebLimits()
    (verdict,) = web.judge(web.measure([text], limits), limits)
    assert verdict is not None
    assert (verdict[0], detail in verdict[1]) == (reason, True)


def judged(answer: str, prompt: str | None = "What is it?", **limits: Any) -> str | None:
    """Return the reason for which one exchange is dropped."""
    (measured,) = variety(tokenise([answer], split_cjk=True))
    verdict = instruct.judge(Talk([Turn(prompt, answer, variety=measured)]), InstructLimits(**limits))
    return verdict[0] if verdict else None


PROSE = "The river is long. It rises in the hills. It ends in the sea. Boats go up and down all day. "
LONG = PROSE + "Fish live in it. Mills stand by it. Towns lie on it. Bridges cross it. "


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Paris", None),
        ("   ", "empty_answer"),
        ("N/A", "placeholder"),
        ("<NoOutput>", "placeholder"),
        ("My name is {{name}}.", "placeholder"),
        ("Use `{{name}}` in the template.", None),
        ("<p>{{ user.name }}</p>", None),
        ("As an AI language model, I have no feelings.", "refusal"),
        ("I’m sorry, but I can’t assist with that.", "refusal"),
        (PROSE + "And so it was that the", "cut_off"),
        (PROSE + "And that is that", None),
        (LONG + "And that is how it came that people who", "cut_off"),
        (LONG + "\n\nSincerely,\n\nThe mayor", None),
        (LONG + "#river #boats #towns", None),
        (LONG + "\n- a last point without a stop", None),
        ("buy now " * 40, "repetition"),
        ("```python\nprint(1)\n", "broken_fence"),
        ("```python\nprint(1)\n```", None),
        ("ast\n~~~\n\nA module.", None),
        ("1. ```\n   a\n   ```\nand ```inline``` code", None),
        ("<div><p>text</p>", "broken_markup"),
        ("The <div> tag divides a page.", None),
        ("\\begin{align} a \\end{align}", None),
        ("\\begin{align} a", "broken_markup"),
        ("Sure.<|im_end|>", "broken_markup"),
    ],
)
def test_answers_fall_for_the_reason_a_reader_would_give(answer: str, reason: str | None) -> None:
    assert judged(answer) == reason


def test_an_echo_is_the_prompt_again_and_not_a_short_quote() -> None:
    prompt = "Describe the colour of the sky at noon."
    assert judged("describe the colour of  the sky at noon", prompt) == "echo"
    assert judged("Yes.", "yes") is None


def test_lorem_ipsum_is_right_where_it_was_asked_for() -> None:
    assert judged("Lorem ipsum dolor sit amet.") == "placeholder"
    assert judged("Lorem ipsum dolor sit amet.", "Give me a lorem ipsum text") is None


def test_thresholds_on_length_state_their_bounds() -> None:
    assert judged("short", min_answer_characters=10) == "short_answer"
    assert judged("x" * 21, max_answer_characters=20) == "long_answer"
    assert judged("fine", "Hi", min_prompt_characters=3) == "short_prompt"
    assert judged("fine", "x" * 10, max_prompt_characters=9) == "long_prompt"
    assert judged("fine", "x" * 100, min_answer_prompt_ratio=0.5) == "answer_prompt_ratio"
    assert judged("x" * 100, "fine", max_answer_prompt_ratio=5) == "answer_prompt_ratio"


def test_toxic_words_are_whole_words_of_the_list() -> None:
    assert judged("You Dolt!", toxic_words=("dolt",)) == "toxic_words"
    assert judged("A thunderbolt, adolt.", toxic_words=("dolt",)) is None


def test_languages_are_compared_only_where_asked_for_and_long_enough() -> None:
    english = "Please write a few sentences about the weather in the north of the country this year."
    german = "Im Norden war das Wetter in diesem Jahr meistens regnerisch, und die Leute blieben zu Hause."
    assert judged(german, english) is None
    assert judged(german, english, language_mismatch=True) == "language_mismatch"
    assert judged(english + " It rained.", english, language_mismatch=True) is None
    assert judged("Regen.", english, language_mismatch=True) is None
    assert judged(german, english, languages=("en", "fr")) == "other_language"
    assert judged(german, english, languages=("de",)) is None
    assert judged("Regen.", english, languages=("en",)) is None


def test_a_tool_call_needs_no_words_and_offered_tools_may_be_declined() -> None:
    limits = InstructLimits()
    assert instruct.judge(Talk([Turn("Weather?", "", calls=True)]), limits) is None
    declined = "As an AI assistant, I cannot order a pizza."
    assert instruct.judge(Talk([Turn("Pizza?", declined, tools=True)]), limits) is None
    assert instruct.judge(Talk([Turn("Pizza?", declined)]), limits) is not None


def test_an_unwanted_answer_may_be_bad_but_not_empty() -> None:
    good, limits = Turn("Who?", "The mayor."), InstructLimits()
    assert instruct.judge(Talk([good], [Turn("Who?", "As an AI language model, no.")]), limits) is None
    assert instruct.judge(Talk([good], [Turn("Who?", "")]), limits) == (
        "empty_answer",
        "answer 2 of 2 is empty",
    )


def test_the_detail_names_the_turn() -> None:
    talk = Talk([Turn("Hi", "Hello."), Turn("And?", "TODO")])
    assert instruct.judge(talk, InstructLimits()) == ("placeholder", "turn 2: 'TODO'")


def test_every_rule_has_a_name_of_its_own() -> None:
    rules = [
        *instruct.TALK_RULES,
        *instruct.TURN_RULES,
        *(rule for family in web.FAMILIES.values() for rule in family),
    ]
    names = Counter(rule.__name__ for rule in rules)
    assert [name for name, count in names.items() if count > 1] == ["empty_text"]
    assert all(a != b for a, b in pairwise(rules))
