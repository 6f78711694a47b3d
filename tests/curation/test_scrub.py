"""Personal data leave every place of a conversation, alike for the same value, and JSON stays JSON."""

import json
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline_lib.curation.scrub as scrub_module
from pipeline_lib import records
from pipeline_lib.curation.json_texts import texts_in, with_texts
from pipeline_lib.curation.scrub import ScrubConfig, _suspects, scrub
from tests.curation.conftest import Workshop, chat, found, message, pair, reasons, said

MAIL, PHONE, CARD = "jane.roe@acme-widgets.com", "+1 415 867 5309", "4111 1111 1111 1111"
SECRETS = (MAIL, PHONE, "4158675309", CARD, "jane.roe")
CALL = [
    {"type": "function", "function": {"name": "mail", "arguments": {"to": MAIL, "phone": 4158675309, "n": 3}}}
]
ROWS = [
    chat(f"I am {MAIL}, call {PHONE}.", f"Hello {MAIL.upper()}!", "And?", f"Mail to {MAIL}.", name="chat"),
    chat("What is 2 + 2?", "4", name="clean"),
    chat(
        "x",
        "y",
        name="metadata",
        metadata=json.dumps({"author": MAIL, "line": 7, "tel": {"phone": 4158675309}}),
    ),
    {
        "id": "tools",
        "tools": json.dumps([{"type": "function", "function": {"name": "f", "description": f"ask {MAIL}"}}]),
        "messages": [
            message("user", "Write", name=MAIL),
            message("assistant", "", tool_calls=json.dumps(CALL), reasoning=f"So {MAIL}\nit is"),
        ],
    },
    pair("Who?", f"Ask {MAIL}", f"Pay with {CARD}", "pair"),
    chat("Write to jane@example.com", "Done, see 192.0.2.1", name="documentation"),
    {**chat("Mail?", MAIL, name="feedback"), "label": True},
]


@pytest.mark.parametrize("action", ["placeholder", "drop", "surrogate"])
def test_nothing_stands_in_the_clear_in_any_file(workshop: Workshop, action: Any) -> None:
    if action == "surrogate":
        pytest.importorskip("faker")
    made = workshop.run(scrub, ScrubConfig(action=action), ROWS)
    rows = json.dumps([*found(made), *found(made, "dropped")])
    others = "".join(path.read_text() for path in made.path.glob("*.json"))
    assert not [secret for secret in SECRETS if secret in rows or secret in others]
    touched = {"chat", "metadata", "tools", "pair", "feedback"}
    assert set(reasons(made)) == (touched if action == "drop" else set())
    assert made.manifest.stats["conversations_touched"] == len(touched)
    assert made.manifest.stats["found"]["email"] == 10


def test_json_stays_json_with_the_types_of_what_was_not_touched(workshop: Workshop) -> None:
    kept = {row["id"]: row for row in found(workshop.run(scrub, ScrubConfig(), ROWS))}
    metadata = json.loads(kept["metadata"]["metadata"])
    assert metadata == {"author": "<EMAIL_1>", "line": 7, "tel": {"phone": "<PHONE_1>"}}
    arguments = json.loads(kept["tools"]["messages"][1]["tool_calls"])[0]["function"]["arguments"]
    assert arguments == {"to": "<EMAIL_1>", "phone": "<PHONE_1>", "n": 3}
    assert kept["tools"]["messages"][0]["name"] == "<EMAIL_1>"
    assert kept["clean"] == {**dict.fromkeys(kept["clean"]), **ROWS[1]}


def test_one_value_is_one_placeholder_in_every_turn(workshop: Workshop) -> None:
    made = workshop.run(scrub, ScrubConfig(), ROWS)
    kept = {row["id"]: row for row in found(made)}
    assert said(kept["chat"]) == [
        "I am <EMAIL_1>, call <PHONE_1>.",
        "Hello <EMAIL_1>!",
        "And?",
        "Mail to <EMAIL_1>.",
    ]
    assert said(kept["documentation"]) == ["Write to jane@example.com", "Done, see 192.0.2.1"]
    assert kept["feedback"]["label"] is True


def test_scrubbing_twice_changes_nothing_more(workshop: Workshop) -> None:
    once = workshop.run(scrub, ScrubConfig(), ROWS)
    twice = workshop.run(scrub, ScrubConfig(), once)
    assert found(twice) == found(once)
    assert twice.manifest.stats["found"] == {}


def test_kinds_that_are_not_asked_for_stay(workshop: Workshop) -> None:
    made = workshop.run(scrub, ScrubConfig(kinds=("phone",)), ROWS[:1])
    assert said(found(made)[0])[0] == f"I am {MAIL}, call <PHONE_1>."


@pytest.fixture
def presidio(monkeypatch: pytest.MonkeyPatch) -> None:
    """An analyser that knows the one name Ann, in the place of presidio-analyzer, whose model is not here."""

    class NlpEngineProvider:
        def __init__(self, nlp_configuration: dict[str, Any]) -> None:
            self.models = nlp_configuration["models"]

        def create_engine(self) -> list[dict[str, str]]:
            return self.models

    class AnalyzerEngine:
        def __init__(self, nlp_engine: list[dict[str, str]], supported_languages: list[str]) -> None:
            assert [model["lang_code"] for model in nlp_engine] == supported_languages

        def analyze(self, text: str, language: str, entities: list[str], score_threshold: float) -> list[Any]:
            at = [match.span() for match in re.finditer("Ann", text)] if "PERSON" in entities else []
            return [SimpleNamespace(entity_type="PERSON", start=begin, end=end) for begin, end in at]

    engines = SimpleNamespace(NlpEngineProvider=NlpEngineProvider)
    monkeypatch.setitem(sys.modules, "presidio_analyzer", SimpleNamespace(AnalyzerEngine=AnalyzerEngine))
    monkeypatch.setitem(sys.modules, "presidio_analyzer.nlp_engine", engines)
    scrub_module._recognisers.cache_clear()


def test_names_are_found_by_a_model_where_that_is_asked_for(workshop: Workshop, presidio: None) -> None:
    rows = [chat("I am Ann.", "Hello Ann, mail ann@acme.io.", name="1"), chat("Hi", "Yo", name="2")]
    plain = workshop.run(scrub, ScrubConfig(), rows)
    assert said(found(plain)[0]) == ["I am Ann.", "Hello Ann, mail <EMAIL_1>."]
    made = workshop.run(scrub, ScrubConfig(names="presidio"), rows)
    assert said(found(made)[0]) == ["I am <PERSON_1>.", "Hello <PERSON_1>, mail <EMAIL_1>."]
    assert made.manifest.stats["found"] == {"email": 1, "person": 2}
    again = workshop.run(scrub, ScrubConfig(names="presidio"), made)
    assert found(again) == found(made)


def test_workers_and_shards_do_not_change_a_byte(same_bytes: Any) -> None:
    same_bytes(scrub, ScrubConfig(), [{**row, "id": f"{row['id']}{i}"} for i in range(3) for row in ROWS])


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_json_put_back_unchanged_is_the_same_text_and_changed_is_json(value: Any) -> None:
    written = json.dumps(value)
    texts = texts_in(written, json=True)
    assert with_texts(written, iter(texts), json=True) == written
    if isinstance(value, dict | list):
        json.loads(with_texts(written, iter([one.replace("a", '"\n') for one in texts]), json=True))


def test_a_place_in_a_long_file_is_not_looked_at_as_if_it_were_a_number_of_somebody() -> None:
    def suspicious(metadata: str) -> bool:
        row = {"id": "1", "source": "a", "messages": [message("text", "Plain words.")], "metadata": metadata}
        return bool(_suspects(records.from_rows([row]), ScrubConfig()))

    assert not suspicious('{"file":"a.jsonl","line":1234567}')
    assert not suspicious('{"file": "chats-2026-11-21.jsonl", "row": 987654321, "language": "en"}')
    assert suspicious('{"file":"jane.roe@acme-widgets.com/chats.jsonl","line":7}')
    assert suspicious('{"file":"call \\"+1 212 456 7890\\".jsonl","line":7}')
    assert suspicious('{"call":"+1 212 456 7890","file":"a.jsonl","line":1234567}')
    assert suspicious('{"file":"a.jsonl","line":1234567,"call":12124567890}')
