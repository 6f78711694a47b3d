"""What is written out reads back as it was; what a format cannot hold is counted, never lost silently."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.core.store import Store
from pipeline_lib.curation import shapes
from pipeline_lib.curation.export_data import FORMS, Form, UnfitError, export_data, row_of
from pipeline_lib.curation.ingest import IngestConfig, ingest
from pipeline_lib.curation.split import SplitConfig, split
from pipeline_lib.kinds import Dataset
from pipeline_lib.records import MESSAGE
from tests.curation.conftest import Row, Workshop, chat, found, message, pair, text

CALLS = json.dumps(
    [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2, "é"]}}}]
)
PLAIN_CALL = json.dumps([{"type": "function", "function": {"name": "now", "arguments": {}}}])
TOOLS = json.dumps([{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}])

ROWS = [
    chat("Add 1 and 2.", "3", name="plain", metadata='{"file": "a.jsonl", "line": 4, "topic": "sums"}'),
    chat("Hi", "Hello", "Bye", "See you", name="long", system="Be brief."),
    {
        **chat("What is 1 + 2?", name="tools", tools=TOOLS),
        "messages": [
            message("user", "What is 1 + 2?"),
            message("assistant", "", tool_calls=CALLS),
            message("tool", "3", name="add", tool_call_id="c1"),
            message("assistant", "3", reasoning="The tool says so."),
            message("user", "And the time?"),
            message("assistant", "", tool_calls=PLAIN_CALL),
            message("tool", "noon"),
            message("assistant", "Noon.", tool_calls=PLAIN_CALL),
        ],
    },
    pair("Which?", "this", "that", "pair"),
    {**chat("Good?", "Yes.", name="judged"), "label": False},
    chat("Translate.\nEin Haus.", "A house.", name="alpaca", metadata='{"input": "Ein Haus.", "line": 1}'),
    chat("x", "y", name="taken", metadata='{"system": "none", "label": "cat", "prompt": "?", "tools": [1]}'),
]
HELD: dict[Form, set[str]] = {
    "openai": {"plain", "long", "tools", "pair", "judged", "alpaca", "taken"},
    "sharegpt": {"plain", "long", "tools", "pair", "judged", "alpaca", "taken"},
    "alpaca": {"plain", "long", "pair", "judged", "alpaca", "taken"},
}


def _said(row: Row) -> dict[str, Any]:
    """Return what a conversation says, nulls left out and JSON parsed."""

    def turns(messages: Any) -> Any:
        keys = [field.name for field in MESSAGE]
        read = [{key: one[key] for key in keys if one.get(key) not in (None, "")} for one in messages or ()]
        return [
            one | ({"tool_calls": json.loads(one["tool_calls"])} if "tool_calls" in one else {})
            for one in read
        ]

    sides = {side: turns(row.get(side)) for side in ("messages", "chosen", "rejected")}
    return {**sides, "label": row.get("label"), "tools": json.loads(row.get("tools") or "null")}


def _columns(row: Row) -> dict[str, Any]:
    metadata = row.get("metadata") or {}
    metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
    return {
        key.removeprefix("column."): value
        for key, value in metadata.items()
        if key not in ("file", "line", "row")
    }


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read_back_the_same(workshop: Workshop, tmp_path: Path, form: Form) -> None:
    before = workshop.dataset(ROWS)
    (written,) = export_data(before, form, tmp_path / "out")
    assert [path.name for path in written.files] == (
        ["kept-conversations.jsonl", "kept-feedback.jsonl", "kept-pairs.jsonl"]
    )
    assert written.conversations == len(HELD[form])
    assert written.conversations + written.left_out.total() == len(ROWS)
    after: Dataset = workshop.store.materialize(
        ingest.recipe(IngestConfig.model_validate({"sources": [{"path": str(tmp_path / "out")}]}))
    ).artifact
    assert after.count("dropped") == 0
    kept = {row["id"]: row for row in found(before) if row["id"] in HELD[form]}
    order = [*(name for name in kept if name not in ("judged", "pair")), "judged", "pair"]
    for name, other in zip(order, found(after), strict=True):
        assert _said(other) == _said(kept[name])
        assert _columns(other) == _columns(kept[name])


def test_rows_have_the_form_that_other_tools_read() -> None:
    rows = {row["id"]: {"tools": None, "metadata": None, **row} for row in ROWS}
    openai = row_of(rows["tools"], "openai")
    assert openai["messages"][1]["content"] is None
    assert openai["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a":1,"b":[2,"é"]}'
    assert openai["tools"] == json.loads(TOOLS)
    sharegpt = row_of(rows["tools"], "sharegpt")
    assert [turn["from"] for turn in sharegpt["conversations"]] == (
        ["human", "gpt", "observation", "gpt", "human", "function_call", "observation", "gpt"]
    )
    assert sharegpt["conversations"][5]["value"] == '{"name":"now","arguments":{}}'
    assert sharegpt["tools"] == TOOLS
    assert row_of(rows["long"], "sharegpt")["system"] == "Be brief."
    assert row_of(rows["alpaca"], "alpaca") == {
        "instruction": "Translate.",
        "input": "Ein Haus.",
        "output": "A house.",
    }
    assert row_of(rows["long"], "alpaca")["history"] == [["Hi", "Hello"]]
    assert row_of(rows["pair"], "alpaca") == {
        "instruction": "Which?",
        "input": "",
        "chosen": "this",
        "rejected": "that",
    }


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NAMES = st.sampled_from(
    "topic input output context prompt label text role message_id replies messages chosen rejected system "
    "tools history response column.input content instruction answer kto_tag".split()
)
VALUES = TEXT | st.none() | st.booleans() | st.integers(-9, 9) | st.lists(TEXT, max_size=2)


@st.composite
def _conversations(draw: st.DrawFn) -> Row:
    turns = draw(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
    row = chat(*(part for turn in turns for part in turn), name="x", system=draw(st.none() | TEXT))
    row["metadata"] = orjson.dumps(draw(st.dictionaries(NAMES, VALUES, max_size=4))).decode()
    for turn in row["messages"]:
        turn["reasoning"] = draw(st.none() | TEXT.filter(bool)) if draw(st.integers(0, 5)) == 0 else None
        if turn["role"] == "assistant" and draw(st.integers(0, 4)) == 0:
            turn["tool_calls"] = draw(st.sampled_from([CALLS, PLAIN_CALL]))
    if draw(st.integers(0, 3)) == 0:
        answer = row["messages"].pop()
        row |= {"chosen": [answer], "rejected": [message("assistant", draw(TEXT))]}
    elif draw(st.integers(0, 3)) == 0:
        row["label"] = draw(st.booleans())
    if draw(st.integers(0, 4)) == 0:
        row["tools"] = TOOLS
    return row


@given(_conversations(), st.sampled_from(FORMS))
def test_any_conversation_reads_back_the_same_or_is_left_out_with_the_reason(row: Row, form: Form) -> None:
    try:
        written = json.loads(json.dumps(row_of(row, form)))
    except UnfitError:
        assert form == "alpaca"
        return
    name = shapes.detect(written)
    assert name is not None
    (read,) = shapes.shape(name)(written)
    assert _said(read) == _said(row)
    given_columns, back = _columns(row), _columns(read)
    if form == "alpaca":
        back.pop("input", None), given_columns.pop("input", None)
    assert {key: value for key, value in back.items() if value is not None} == {
        key: value for key, value in given_columns.items() if value is not None
    }


def test_what_a_format_cannot_hold_is_counted_with_the_reason(workshop: Workshop, tmp_path: Path) -> None:
    rows = [*ROWS, text("A text.", "text"), {"id": "empty", "messages": []}]
    (written,) = export_data(workshop.dataset(rows), "alpaca", tmp_path / "out")
    assert written.left_out == {"tools, names or reasoning": 1, "plain text": 1, "no messages": 1}
    assert written.conversations == 6
    (alone,) = export_data(workshop.dataset(ROWS[:2]), "alpaca", tmp_path / "one.jsonl")
    assert alone.files == {tmp_path / "one.jsonl": 2}
    assert len((tmp_path / "one.jsonl").read_text().splitlines()) == 2
    with pytest.raises(ConfigError, match="conversations, feedback, pairs"):
        export_data(workshop.dataset(ROWS), "openai", tmp_path / "one.jsonl")
    with pytest.raises(DataError, match="plain text"):
        export_data(workshop.dataset([text("A text.", "text")]), "openai", tmp_path / "none")


def test_every_split_has_its_file_and_dropped_rows_their_reason(workshop: Workshop, tmp_path: Path) -> None:
    rows = [chat(f"question {i}", f"answer {i}", name=f"{i:03}") for i in range(200)]
    made = workshop.run(split, SplitConfig(minimum=1), rows)
    written = export_data(made, "sharegpt", tmp_path / "out")
    assert [[path.name for path in one.files] for one in written] == (
        [["train.jsonl"], ["validation.jsonl"], ["test.jsonl"]]
    )
    assert [one.conversations for one in written] == [made.count(one.part) for one in written]
    assert len(list((tmp_path / "out").iterdir())) == 3
    with pytest.raises(ConfigError, match="one file cannot hold"):
        export_data(made, "openai", tmp_path / "all.jsonl")
    with pytest.raises(ConfigError, match="no part 'kept'"):
        export_data(made, "openai", tmp_path / "out", part="kept")


def test_a_place_that_cannot_be_written_is_one_clear_error(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be written"):
        export_data(workshop.dataset(ROWS), "openai", tmp_path / "file" / "out")
    assert isinstance(workshop.store, Store)
