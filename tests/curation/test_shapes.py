"""Every format comes out as the conversation that a person would read in it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.curation import shapes
from pipeline_lib.curation.turns import FormatError

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def shaped(row: Any) -> dict[str, Any]:
    """Return the one conversation of a row in the format that is detected."""
    name = shapes.detect(row)
    assert name is not None
    [conversation] = shapes.shape(name)(row)
    return conversation


def said(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return messages as (role, content)."""
    return [(message["role"], message["content"]) for message in messages]


ROWS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "Add.", "input": "1 2", "output": "3"},
    "dolly": {"instruction": "Add.", "context": "1 2", "response": "3"},
    "sharegpt": {"conversations": [{"from": "human", "value": "Add.\n1 2"}, {"from": "gpt", "value": "3"}]},
    "openai": {"messages": [{"role": "user", "content": "Add.\n1 2"}, {"role": "assistant", "content": "3"}]},
    "prompt_completion": {"question": "Add.\n1 2", "answer": "3"},
}


@pytest.mark.parametrize("name", ROWS)
def test_the_same_exchange_reads_the_same_in_every_instruction_format(name: str) -> None:
    assert shapes.detect(ROWS[name]) == name
    assert said(shaped(ROWS[name])["messages"]) == [("user", "Add.\n1 2"), ("assistant", "3")]


def test_alpaca_history_and_system_come_before_the_instruction() -> None:
    row = {
        "instruction": "c",
        "input": "",
        "output": "d",
        "system": "s",
        "history": [["a", "b"]],
        "topic": "x",
    }
    conversation = shaped(row)
    assert said(conversation["messages"]) == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
    ]
    assert conversation["metadata"] == {"topic": "x"}


def test_an_alpaca_answer_may_be_called_response() -> None:
    assert said(shaped({"instruction": "a", "response": "b"})["messages"])[-1] == ("assistant", "b")


def test_two_alpaca_answers_that_differ_are_both_kept() -> None:
    assert shaped({"instruction": "a", "output": "b", "response": "c"})["metadata"] == {"response": "c"}
    assert shaped({"instruction": "a", "output": "b", "response": "b"})["metadata"] == {}


def test_openai_tool_calls_null_content_and_typed_parts_are_kept() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"},
            {"role": "tool", "content": "1", "tool_call_id": "c1", "name": "add"},
        ],
        "tools": [{"type": "function", "function": {"name": "add"}}],
    }
    conversation = shaped(row)
    user, assistant, tool = conversation["messages"]
    assert user["content"] == "one\ntwo"
    assert (assistant["content"], assistant["reasoning"]) == ("", "hm")
    assert json.loads(assistant["tool_calls"])[0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert (tool["tool_call_id"], tool["name"]) == ("c1", "add")
    assert json.loads(conversation["tools"]) == row["tools"]


def test_sharegpt_function_calls_become_tool_calls_and_observations_tool_messages() -> None:
    turns = [
        {"from": "human", "value": "?"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "two"},
    ]
    conversation = shaped({"conversations": turns, "system": "s", "tools": '[{"name": "f"}]'})
    assert [message["role"] for message in conversation["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert json.loads(conversation["messages"][2]["tool_calls"])[0]["function"]["arguments"] == {"x": 1}
    assert json.loads(conversation["tools"]) == [{"type": "function", "function": {"name": "f"}}]


PAIRS: list[dict[str, Any]] = [
    {"prompt": "q", "chosen": "good", "rejected": "bad"},
    {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"},
    {
        "prompt": "q",
        "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}],
    },
    {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    },
    {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
]


@pytest.mark.parametrize("row", PAIRS)
def test_a_preference_is_a_prompt_and_what_follows_on_each_side(row: dict[str, Any]) -> None:
    assert shapes.detect(row) == "preference"
    conversation = shaped(row)
    assert said(conversation["messages"]) == [("user", "q")]
    assert said(conversation["chosen"]) == [("assistant", "good")]
    assert said(conversation["rejected"]) == [("assistant", "bad")]


def test_feedback_has_the_answer_and_its_label() -> None:
    for label in (False, 0, "false"):
        conversation = shaped({"prompt": "q", "completion": "a", "label": label})
        assert said(conversation["messages"]) == [("user", "q"), ("assistant", "a")]
        assert conversation["label"] is False
    assert shaped({**ROWS["openai"], "label": True})["label"] is True
    assert shaped({**ROWS["alpaca"], "kto_tag": True})["label"] is True


def test_a_class_label_is_no_feedback() -> None:
    row = {"text": "fine", "label": 3}
    assert shapes.detect(row) == "text"
    assert shaped(row)["metadata"] == {"label": 3}


def test_every_path_through_a_message_tree_is_a_conversation() -> None:
    def node(text: str, role: str, *replies: dict[str, Any]) -> dict[str, Any]:
        return {"message_id": text, "text": text, "role": role, "replies": list(replies)}

    tree = node(
        "q",
        "prompter",
        node("a", "assistant"),
        node("b", "assistant", node("c", "prompter", node("d", "assistant"))),
    )
    row = {"message_tree_id": "t", "tree_state": "ready", "prompt": tree}
    conversations = shapes.shape("oasst_tree")(row)
    assert [[content for _, content in said(one["messages"])] for one in conversations] == [
        ["q", "a"],
        ["q", "b", "c", "d"],
    ]
    assert {one["metadata"]["group"] for one in conversations} == {"t"}
    assert shapes.detect(row) == shapes.detect(tree) == "oasst_tree"


def test_a_very_deep_message_tree_is_read() -> None:
    tree: dict[str, Any] = {"text": "end", "role": "assistant", "replies": []}
    for _ in range(5_000):
        tree = {"text": "m", "role": "prompter", "replies": [tree]}
    [conversation] = shapes.shape("oasst_tree")({"prompt": tree})
    assert len(conversation["messages"]) == 5_001


BROKEN: list[tuple[str, Any, str]] = [
    ("alpaca", {"instruction": "a"}, "output"),
    ("alpaca", {"instruction": {"a": 1}, "output": "b"}, "instruction"),
    ("alpaca", 3, "int"),
    ("openai", {"messages": "hello"}, "JSON"),
    ("openai", {"messages": [{"role": "robot", "content": "x"}]}, "robot"),
    ("openai", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
    ("sharegpt", {"conversations": [{"from": "function_call", "value": "f(x)"}]}, "JSON"),
    ("preference", {"chosen": "a", "rejected": "b"}, "prompt"),
    ("feedback", {"prompt": "a", "completion": "b", "label": "perhaps"}, "perhaps"),
    ("oasst_messages", {"message_id": "1", "parent_id": "0", "text": "a", "role": "assistant"}, "reply"),
]


@pytest.mark.parametrize(("name", "row", "word"), BROKEN)
def test_a_row_without_its_formats_form_says_what_is_wrong(name: str, row: Any, word: str) -> None:
    with pytest.raises(FormatError, match=word):
        shapes.shape(name)(row)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
FIELDS = """instruction input output response history system messages conversations role from content value
tools tool_calls prompt completion chosen rejected label text replies message_id parent_id function name
arguments type"""
KEYS = st.sampled_from(FIELDS.split())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)


@given(VALUES, st.sampled_from(shapes.FORMATS))
def test_any_value_is_a_conversation_or_a_format_error(value: Any, name: str) -> None:
    shapes.detect(value)
    try:
        conversations = shapes.shape(name)(value)
    except FormatError:
        return
    for conversation in conversations:
        for side in ("messages", "chosen", "rejected"):
            for message in conversation.get(side, []):
                assert all(isinstance(part, str) for part in message.values())
                assert {"role", "content"} <= set(message)
