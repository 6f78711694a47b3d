"""Every text in one form, every conversation in regular turns, and nothing else lost."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib import records
from pipeline_lib.curation.normalize import NormalizeConfig, normalize, regular_turns, text_normalizer
from tests.curation.conftest import Workshop, chat, found, message, pair, reasons, said, text

clean = text_normalizer(fix_encoding=True)
TROUBLE = "aÃ©â\x80\x99\u200b\ufeff\u00ad\r\n\t \x0b\x0c\x00\x85\u2028e\u0301—ï»¿½\U0001f600"
CODE = "    def f(x):\n\tif x:\n        return 1\n\n\n    return  2"


@settings(max_examples=400)
@given(st.text(alphabet=TROUBLE, max_size=12) | st.text(max_size=20))
def test_a_second_time_changes_nothing(given_text: str) -> None:
    once = clean(given_text)
    assert clean(once) == once


@given(st.text(alphabet="ab {}():\n\t", max_size=60))
def test_of_plain_text_only_white_space_at_line_ends_and_around_it_goes(given_text: str) -> None:
    def bare(value: str) -> list[str]:
        return [line.rstrip(" \t") for line in value.split("\n") if line.strip()]

    before, after = bare(given_text), bare(clean(given_text))
    assert after[1:] == before[1:]
    assert [line.lstrip() for line in after[:1]] == [line.lstrip() for line in before[:1]]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (CODE, CODE),
        ("\n\n" + CODE + "\n\n", CODE),
        ("  Hello\nthere ", "Hello\nthere"),
        ("a  b\tc", "a  b\tc"),
        ("one\r\ntwo\rthree\x0cfour\u2028five", "one\ntwo\nthree\nfour\nfive"),
        ("page 1\x0cpage 2", "page 1\npage 2"),
        ("The Mona Lisa doesnÃ¢â‚¬â„¢t", "The Mona Lisa doesn’t"),
        ("cafe\u0301 zero\u200bwidth so\u00adft", "café zerowidth soft"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("x &lt; y “q” ﬁ Ａ", "x &lt; y “q” ﬁ Ａ"),
        ("क्\u200dष م\u200cن", "क्\u200dष م\u200cن"),
        ("bell\x07 and \x1b", "bell and"),
    ],
)
def test_texts_come_into_their_form(before: str, after: str) -> None:
    assert clean(before) == after


def test_mojibake_stays_where_it_is_not_to_be_repaired() -> None:
    assert text_normalizer(fix_encoding=False)("Ã©") == "Ã©"


ROWS = [
    chat("Hi ", " Hello", name="fine"),
    {"id": "none", "messages": []},
    {"id": "null", "messages": None},
    {"id": "odd", "messages": [message("narrator", "x")]},
    chat("Hi", name="unanswered"),
    chat("Hi", "", name="empty answer"),
    chat(" \u200b", "Hello", name="empty prompt"),
    {"id": "null answer", "messages": [message("user", "x"), message("assistant", None)]},
    chat("a", "b", "c", name="trailing"),
    {"id": "twice", "messages": [message("user", "a"), message("user", "b"), message("assistant", "c")]},
    {
        "id": "answer twice",
        "messages": [message("user", "a"), message("assistant", "b"), message("assistant", "c")],
    },
    {"id": "begins", "messages": [message("assistant", "z"), *chat("a", "b")["messages"]]},
    {"id": "to nothing", "messages": [message("assistant", "z")]},
    text("  a text\n", "text"),
    text("\n ", "no text"),
    pair("Which? ", "this\r\n", "that ", "pair"),
    pair("Which?", "this", " ", "half a pair"),
    {**chat("Hi", "Bad.", name="feedback"), "label": False, "metadata": '{"k": 1}'},
]
TOOL = {
    "id": "tool",
    "tools": '[{"type": "function"}]',
    "messages": [
        message("user", "Weather?"),
        message("assistant", "", tool_calls='[{"function": {"name": "w"}}]'),
        message("tool", "sun", tool_call_id="1"),
        message("tool", "rain", tool_call_id="2"),
        message("assistant", "Both."),
    ],
}


def test_conversations_come_into_turns_or_are_dropped_with_the_reason(workshop: Workshop) -> None:
    made = workshop.run(normalize, NormalizeConfig(), [*ROWS, TOOL])
    kept = {row["id"]: row for row in found(made)}
    assert reasons(made) == {
        "none": "no_messages",
        "null": "no_messages",
        "odd": "unknown_role",
        "unanswered": "no_assistant_turn",
        "empty answer": "empty_answer",
        "empty prompt": "empty_message",
        "null answer": "empty_answer",
        "to nothing": "no_prompt",
        "no text": "empty_text",
        "half a pair": "empty_answer",
    }
    assert {name: said(row) for name, row in kept.items() if name != "tool"} == {
        "fine": ["Hi", "Hello"],
        "trailing": ["a", "b"],
        "twice": ["a\n\nb", "c"],
        "answer twice": ["a", "b\n\nc"],
        "begins": ["a", "b"],
        "text": ["a text"],
        "pair": ["Which?"],
        "feedback": ["Hi", "Bad."],
    }
    assert kept["tool"] == {**dict.fromkeys(kept["tool"]), **TOOL}
    assert (said(kept["pair"], "chosen"), said(kept["pair"], "rejected")) == (["this"], ["that"])
    assert (kept["feedback"]["label"], json.loads(kept["feedback"]["metadata"])) == (False, {"k": 1})
    assert made.manifest.stats["turns_changed"] == 4


def test_irregular_turns_are_dropped_where_the_config_says_so(workshop: Workshop) -> None:
    strict = NormalizeConfig(repeated_roles="drop", trailing_prompt="drop")
    made = workshop.run(normalize, strict, [*ROWS, TOOL])
    dropped = reasons(made)
    assert {name: dropped[name] for name in ("trailing", "twice", "answer twice")} == {
        "trailing": "trailing_prompt",
        "twice": "repeated_role",
        "answer twice": "repeated_role",
    }
    assert "tool" not in dropped


def test_normalizing_what_is_normal_keeps_every_byte(workshop: Workshop) -> None:
    once = workshop.run(normalize, NormalizeConfig(), [*ROWS, TOOL])
    twice = workshop.run(normalize, NormalizeConfig(), once)
    assert found(twice) == found(once)
    assert (twice.manifest.stats["texts_changed"], twice.manifest.stats["turns_changed"]) == (0, 0)


def test_the_language_is_noted_where_that_is_asked_for(workshop: Workshop) -> None:
    english = "Please write a few sentences about the weather in the north of the country this year."
    german = "Im Norden war das Wetter in diesem Jahr meistens regnerisch, und die Leute blieben zu Hause."
    rows = [
        chat(english, "It rained nearly every day.", name="en", metadata='{"language": "theirs", "a": 1}'),
        chat("Wetter?", german, name="de"),
        chat("Hi", "Yo", name="short", metadata='{"a": 2}'),
    ]
    made = workshop.run(normalize, NormalizeConfig(language=True), rows)
    kept = {row["id"]: row["metadata"] for row in found(made)}
    assert json.loads(kept["en"]) == {"column.language": "theirs", "a": 1, "language": "en"}
    assert json.loads(kept["de"]) == {"language": "de"}
    assert json.loads(kept["short"]) == {"a": 2}
    untouched = workshop.run(normalize, NormalizeConfig(), rows)
    assert [row["metadata"] for row in found(untouched)] == [row.get("metadata") for row in rows]


def test_workers_and_shards_do_not_change_a_byte(same_bytes: Any) -> None:
    same_bytes(normalize, NormalizeConfig(), [*ROWS, TOOL])


TURNS = st.lists(
    st.tuples(
        st.sampled_from(("system", "user", "assistant", "tool", "pirate")), st.sampled_from(("", "a", "b c"))
    ),
    max_size=7,
)


@given(TURNS)
def test_what_is_kept_has_regular_turns_and_stays_as_it_is(turns: list[tuple[str, str]]) -> None:
    given_row = {"id": "x", "source": "s", "messages": [message(role, content) for role, content in turns]}
    config = NormalizeConfig()
    batch, verdicts, _ = regular_turns(records.from_rows([given_row]), config)
    (row,) = batch.to_pylist()
    if verdicts[0] is None:
        roles = [one["role"] for one in row["messages"]]
        assert roles[-1] == "assistant"
        assert all(one["content"] for one in row["messages"])
        assert all(a != b or a == "tool" for a, b in pairwise(roles))
        assert [one["content"] for one in row["messages"]] == said(
            regular_turns(batch, config)[0].to_pylist()[0]
        )
        assert "".join(said(row)).replace("\n", "") in "".join(content for _, content in turns)
    else:
        assert all(verdicts[0])
