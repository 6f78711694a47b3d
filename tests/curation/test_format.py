"""Conversations in the configured form: nothing of them lost, Alpaca's instruction and input told apart."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline_lib.core.store import Store
from pipeline_lib.curation import shapes
from pipeline_lib.curation.export_data import row_of
from pipeline_lib.curation.format import ALPACA, ALPACA_WITH_INPUT, FormatConfig, _formatted, format
from pipeline_lib.curation.ingest import IngestConfig, ingest
from pipeline_lib.curation.normalize import NormalizeConfig, normalize, text_normalizer
from tests.curation.conftest import Row, Workshop, chat, found, message, pair, reasons, said, text

CHAT, STYLED = FormatConfig(), FormatConfig(style="alpaca")
ROWS = [
    chat("Add.", "3", name="plain"),
    chat("Add.", "3", name="system", system="Be brief."),
    chat("a", "b", "c", "d", name="long"),
    text("A text.", "text"),
    pair("Which?", "this", "that", "pair"),
    {**chat("Hi", "Yo", name="feedback"), "label": False, "metadata": '{"a": 1}'},
]


def test_a_chat_stays_as_it_is_and_plain_texts_go(workshop: Workshop) -> None:
    made = workshop.run(format, CHAT, ROWS)
    assert reasons(made) == {"text": "plain_text"}
    assert found(made) == [{**dict.fromkeys(found(made)[0]), **row} for row in ROWS if row["id"] != "text"]


def test_plain_texts_stay_where_that_is_asked_for(workshop: Workshop) -> None:
    made = workshop.run(format, FormatConfig(plain_text="keep", system="Be kind."), ROWS)
    assert reasons(made) == {}
    assert said({row["id"]: row for row in found(made)}["text"]) == ["A text."]


def test_a_system_message_comes_before_conversations_that_have_none(workshop: Workshop) -> None:
    made = workshop.run(format, FormatConfig(system="Be kind."), ROWS)
    first = {row["id"]: said(row)[0] for row in found(made)}
    assert first.pop("system") == "Be brief."
    assert set(first.values()) == {"Be kind."}


def test_alpaca_holds_one_question_and_one_answer_or_a_pair_of_them(workshop: Workshop) -> None:
    made = workshop.run(format, STYLED, ROWS)
    assert reasons(made) == {"text": "plain_text", "long": "not_alpaca"}
    kept = {row["id"]: row for row in found(made)}
    assert said(kept["plain"]) == [ALPACA.format(instruction="Add."), "3"]
    assert said(kept["system"]) == ["Be brief.", ALPACA.format(instruction="Add."), "3"]
    assert said(kept["pair"]) == [ALPACA.format(instruction="Which?")]
    assert (said(kept["pair"], "chosen"), said(kept["pair"], "rejected")) == (["this"], ["that"])
    metadata = json.loads(kept["feedback"]["metadata"])
    assert (kept["feedback"]["label"], metadata.pop("format.messages")[0]["content"]) == (False, "Hi")
    assert metadata == {"a": 1}


def test_a_conversation_without_messages_is_no_alpaca(workshop: Workshop) -> None:
    rows = [{"id": "1", "messages": None}, {"id": "2", "messages": [message("assistant", "x")]}]
    assert set(reasons(workshop.run(format, STYLED, rows)).values()) == {"not_alpaca"}


ALPACA_ROWS = [
    ("Name a colour.", ""),
    ("Write two lines.\nThe first about rain.\nThe second {about} sun.", ""),
    ("Add these:\n- first\n- second", "1\n2"),
    ("Translate.", "Ein Haus.\r\n\r\n    indented\r\n"),
    ("Summarise.", "\n\nIt rained."),
    ("Repeat.\nIt rained.", "It rained."),
    ("Fix the text.", "The Mona Lisa doesnÃ¢â‚¬â„¢t"),
    ("Sum.", 12),
]


@pytest.mark.parametrize("shape", ["alpaca", "dolly"])
def test_instruction_and_input_come_back_as_they_were_read(
    workshop: Workshop, tmp_path: Path, shape: str
) -> None:
    keys = {"alpaca": ("instruction", "input", "output"), "dolly": ("instruction", "context", "response")}[
        shape
    ]
    lines = [json.dumps(dict(zip(keys, (*row, "ok"), strict=True))) for row in ALPACA_ROWS]
    (tmp_path / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = IngestConfig.model_validate({"sources": [{"path": str(tmp_path / "data.jsonl")}]})
    store: Store = workshop.store
    raw = store.materialize(ingest.recipe(config)).artifact
    made = workshop.run(format, STYLED, workshop.run(normalize, NormalizeConfig(), raw))
    clean = text_normalizer(fix_encoding=True)
    expected = [
        ALPACA_WITH_INPUT.format(instruction=clean(asked), input=clean(str(given)))
        if given
        else ALPACA.format(instruction=clean(asked))
        for asked, given in ALPACA_ROWS
    ]
    kept = sorted(found(made), key=lambda row: json.loads(row["metadata"])["line"])
    assert [said(row)[0] for row in kept] == expected


TEXT = st.text(alphabet="ab \n{}é", min_size=1, max_size=14).filter(str.strip)


@given(TEXT, st.none() | TEXT)
def test_no_word_of_an_instruction_or_its_input_is_lost_or_moved(asked: str, given_text: str | None) -> None:
    clean = text_normalizer(fix_encoding=True)
    (shaped,) = shapes.shape("alpaca")({"instruction": asked, "input": given_text, "output": "x"})
    row: Row = {
        "id": "1",
        "messages": [message(m["role"], clean(m["content"])) for m in shaped["messages"]],
        "metadata": json.dumps(shaped["metadata"]),
        "chosen": None,
    }
    written: Any = said(_formatted(row, STYLED))[0]
    if given_text:
        body = written.split("### Instruction:\n")[1].removesuffix("\n\n### Response:")
        parts = body.split("\n\n### Input:\n")
        assert ["".join(part.split()) for part in parts] == [
            "".join(one.split()) for one in (asked, given_text)
        ]
    else:
        assert "### Input" not in written


ASKING = "{% if input %}\nContext: {{ input }}\n{% endif %}\nQ: {{ instruction }}\nA:"
TALKING = "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}ASSISTANT:"


def templated(template: str) -> FormatConfig:
    return FormatConfig(style="template", template=template)


def test_a_template_makes_the_prompt_of_what_was_asked(workshop: Workshop) -> None:
    given_input = {**chat("Add.\n1 and 2", "3", name="input"), "metadata": '{"input": "1 and 2"}'}
    made = workshop.run(format, templated(ASKING), [*ROWS, given_input])
    assert reasons(made) == {"text": "plain_text", "long": "several_turns"}
    kept = {row["id"]: row for row in found(made)}
    assert said(kept["plain"]) == ["Q: Add.\nA:", "3"]
    assert said(kept["input"]) == ["Context: 1 and 2\nQ: Add.\nA:", "3"]
    assert said(kept["pair"]) == ["Q: Which?\nA:"]
    assert said(kept["pair"], "chosen") == ["this"]
    assert said(kept["system"]) == ["Be brief.", "Q: Add.\nA:", "3"]


def test_a_template_of_all_messages_holds_conversations_of_any_length(workshop: Workshop) -> None:
    made = workshop.run(format, templated(TALKING), ROWS)
    assert reasons(made) == {"text": "plain_text"}
    kept = {row["id"]: row for row in found(made)}
    assert said(kept["long"]) == ["USER: a\nASSISTANT: b\nUSER: c\nASSISTANT:", "d"]
    assert said(kept["system"]) == ["SYSTEM: Be brief.\nUSER: Add.\nASSISTANT:", "3"]


def test_what_a_template_names_and_a_conversation_lacks_is_the_reason_of_its_drop(
    workshop: Workshop,
) -> None:
    made = workshop.run(format, templated("{{ metadata.a }}: {{ instruction }}"), ROWS)
    assert [said(row)[0] for row in found(made)] == ["1: Hi"]
    assert reasons(made)["plain"] == "template_refused"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"style": "template"}, "go together"),
        ({"template": "{{ instruction }}"}, "go together"),
        ({"style": "template", "template": "{{ question }}"}, "'question' is no field .* instruction, input"),
        ({"style": "template", "template": "a\n{% if %}"}, "line 2"),
    ],
)
def test_a_template_that_cannot_be_used_is_told_with_the_config(values: Any, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        FormatConfig.model_validate(values)


def test_a_template_reaches_nothing_of_the_program(workshop: Workshop) -> None:
    made = workshop.run(format, templated("{{ messages.__class__.__mro__ }}"), ROWS[:1])
    assert reasons(made) == {"plain": "template_refused"}


@pytest.mark.parametrize("config", [STYLED, templated(ASKING), templated(TALKING)])
@pytest.mark.parametrize("form", ["openai", "sharegpt", "alpaca"])
def test_what_was_put_under_a_prompt_is_written_out_as_it_was(
    workshop: Workshop, config: FormatConfig, form: Any
) -> None:
    rows = [row for row in ROWS if row["id"] != "text"]
    before = {row["id"]: row_of(row, form) for row in found(workshop.run(format, CHAT, rows))}
    for row in found(workshop.run(format, config, rows)):
        assert row_of(row, form) == before[row["id"]]


def test_workers_and_shards_do_not_change_a_byte(same_bytes: Any) -> None:
    same_bytes(format, FormatConfig(style="alpaca", system="Be kind."), ROWS)
