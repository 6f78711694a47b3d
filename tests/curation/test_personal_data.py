"""Personal data is found in all its forms and replaced alike; nothing else is touched."""

import importlib.util
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random

import phonenumbers
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum import iban as iban_number
from stdnum import luhn

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.personal_data import gates
from pipeline_lib.personal_data.detect import find, find_without_gates, suspicious
from pipeline_lib.personal_data.kinds import ALL, Span
from pipeline_lib.personal_data.masking import mask
from pipeline_lib.personal_data.recognise import presidio_recogniser
from pipeline_lib.personal_data.replace import Replacer, examples

sys.path.insert(0, str(Path(__file__).parent))
from personal_data_generator import Case, cases, near_miss, sentence
from personal_data_values import MAKERS

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture(scope="module")
def labelled() -> list[Case]:
    return list(cases(2400, seed=20240229))


def _kinds(text: str) -> list[str]:
    return [span.kind for span in find(text)]


def _values(text: str) -> list[str]:
    return [text[span.start : span.end] for span in find(text)]


def _overlaps(span: Span, label: tuple[str, int, int]) -> bool:
    return span.kind == label[0] and span.start < label[2] and label[1] < span.end


def _scores(labelled: list[Case]) -> dict[str, float]:
    """Return F1 by kind and over all (`all`), where any overlap of the same kind counts as found."""
    hits, false, missed = Counter[str](), Counter[str](), Counter[str]()
    for case in labelled:
        for text, labels in zip(case.texts, case.labels, strict=True):
            spans = find(text)
            for label in labels:
                (hits if any(_overlaps(span, label) for span in spans) else missed)[label[0]] += 1
            false.update(span.kind for span in spans if not any(_overlaps(span, label) for label in labels))
    for counter in (hits, false, missed):
        counter["all"] = counter.total()
    return {kind: 2 * hits[kind] / (2 * hits[kind] + false[kind] + missed[kind]) for kind in hits}


def test_every_kind_is_found_in_labelled_conversations(labelled: list[Case]) -> None:
    scores = _scores(labelled)
    assert set(scores) == {*ALL, "all"}
    assert scores["all"] >= 0.97
    assert min(scores.values()) >= 0.93, scores


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("email", "jane [at] web [dot] de", "jane [at] web [dot] de"),
        ("phone", "Call (123) 456-7890 x123 now", "(123) 456-7890 x123"),
        ("phone", "from +44 20 7946 0958.", "+44 20 7946 0958"),
        ("phone", "meine Nummer: +49 (0)30 901820", "+49 (0)30 901820"),
        ("phone", "(08) 9011 0123 is my phone", "(08) 9011 0123"),
        ("phone", "my number is 06\u2011391\u00a07462 5", "06\u2011391\u00a07462 5"),
        ("credit_card", "4111 1111 1111 1111 12/27", "4111 1111 1111 1111"),
        ("credit_card", "378282246310005", "378282246310005"),
        ("iban", "IBAN GB82 WEST 1234 5698 7654 32 BIC WESTGB2L", "GB82 WEST 1234 5698 7654 32"),
        ("iban", "MT84MALT011000012345MTLCAST001S", "MT84MALT011000012345MTLCAST001S"),
        ("national_id", "123-45-6789", "123-45-6789"),
        ("national_id", "my social is 123 45 6789", "123 45 6789"),
        ("national_id", "C.F. RSSMRA85T10A562S", "RSSMRA85T10A562S"),
        ("national_id", "Steuer-ID: 36 574 261 809", "36 574 261 809"),
        ("ip_address", "from 8.8.8.8 to 2a00:1450:4001:81b::200e"[:12], "8.8.8.8"),
        ("ip_address", "2a00:1450:4001:81b::200e", "2a00:1450:4001:81b::200e"),
        (
            "url_with_credentials",
            "(postgres://bob:hunter2x@db.acme.com:5432/x)",
            "postgres://bob:hunter2x@db.acme.com:5432/x",
        ),
        ("secret", "password = 'Tr0ub4dor&3'", "Tr0ub4dor&3"),
        (
            "crypto_wallet",
            "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
            "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
        ),
        ("street_address", "at 221B Baker Street, London NW1 6XE.", "221B Baker Street, London NW1 6XE"),
        ("street_address", "Keizersgracht 123, 1015 CJ Amsterdam", "Keizersgracht 123, 1015 CJ Amsterdam"),
        ("date_of_birth", "née le 3 mars 1985 à Paris", "3 mars 1985"),
        ("vehicle", "1M8GDM9AXKP042788", "1M8GDM9AXKP042788"),
        ("passport", "Passport: C01X00T47", "C01X00T47"),
    ],
)
def test_published_examples_are_found_to_the_character(kind: str, text: str, value: str) -> None:
    assert [(span.kind, text[span.start : span.end]) for span in find(text)] == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "a@example.com b@mail.example.org c@x.test d@y.invalid root@localhost",
        "192.0.2.1 198.51.100.7 203.0.113.9 127.0.0.1 0.0.0.0 2001:db8::8a2e:370:7334 ::1",
        "+1-202-555-0173 (202) 555-0199 202.555.0100 phone 555-0123",
        "https://user:hunter22x@example.com/ http://localhost:8080/?token=abc123def456",
        "postgres://user:password@db.acme.com/x and ?api_key=YOUR_API_KEY",
        "AKIAIOSFODNN7EXAMPLE password = 'changeme' token: ${TOKEN}",
        "00-00-5E-00-53-01 ff:ff:ff:ff:ff:ff",
    ],
)
def test_documentation_values_are_never_touched(text: str) -> None:
    assert find(text) == []
    assert Replacer().replace([text]) == ([text], Counter())


@pytest.mark.parametrize(
    "code",
    [
        "@pytest.mark.parametrize\ndef f(a, b):\n    return a@b.T + x@w.transpose(0, 1)",
        "std::vector<a::b> v; abc::def(); x[1000:2000:2]; x[::2]",
        "numpy==1.2.3.4 version 10.15.7.2, Section 3.2.1.1",
        "1939-1945, (1861-1865), 2019/2020, 1,234,567.89, 3.14159265358979, 0.70710678118",
        "978-3-16-148410-0, 123e4567-e89b-12d3-a456-426614174000, da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "lodash@4.17.21 git@github.com:org/repo.git",
        "password = getpass(); token = tokens[i + 1]; secret = generate_secret_v2()",
        "0 1 1 2 3 5 8 13 21 34",
        "4111 1111 1111 1112 and DE00 1234 5678 9012 3456 00",
        "The war of 1812. In 2008 Wall Street crashed. Mozart, born on January 27, 1756.",
        "In 2009, Wimbledon's Centre Court got a roof. DAY 4 The Pom-Pon Way: 7.2 km.",
    ],
)
def test_code_and_numbers_are_not_mangled(code: str) -> None:
    assert find(code) == []


def test_a_value_keeps_its_placeholder_in_every_turn_and_spelling() -> None:
    turns = [
        "I am JOHN@acme.io, (415) 555-2671.",
        "Mail john@acme.io or ann@acme.io",
        "+1 415-555-2671 or 4111111111111111?",
    ]
    texts, counts = Replacer().replace(turns)
    assert texts == [
        "I am <EMAIL_1>, <PHONE_1>.",
        "Mail <EMAIL_1> or <EMAIL_2>",
        "<PHONE_1> or <CREDIT_CARD_1>?",
    ]
    assert counts == {"email": 3, "phone": 2, "credit_card": 1}


def test_new_placeholders_do_not_reuse_numbers_that_stand_in_the_text() -> None:
    assert Replacer().replace(["<EMAIL_2> knows ann@acme.io"])[0] == ["<EMAIL_2> knows <EMAIL_3>"]


def test_the_same_value_becomes_the_same_placeholder_throughout(labelled: list[Case]) -> None:
    for case in labelled[::4]:
        given: dict[tuple[str, str], set[str]] = {}
        texts, counts = Replacer().replace(case.texts)
        assert counts.total() == sum(len(find(text)) for text in case.texts)
        for text, replaced in zip(case.texts, texts, strict=True):
            assert all(value not in replaced for value in _values(text))
            for span, mark in zip(find(text), _marks_added(text, replaced), strict=True):
                given.setdefault((span.kind, text[span.start : span.end].lower()), set()).add(mark)
        assert all(len(marks) == 1 for marks in given.values())


def _marks_added(text: str, replaced: str) -> Iterator[str]:
    shift = 0
    for span in find(text):
        start = span.start + shift
        end = replaced.index(">", start) + 1
        yield replaced[start:end]
        shift += (end - start) - (span.end - span.start)


def test_scrubbing_twice_changes_nothing_more(labelled: list[Case]) -> None:
    for case in labelled[::3]:
        once, _ = Replacer().replace(case.texts)
        assert Replacer().replace(once) == (once, Counter())


def test_the_gates_cost_no_finding(labelled: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for case in labelled[::2] for text in case.texts]
    truth = [find_without_gates(text) for text in texts]
    assert [find(text) for text in texts] == truth
    assert all(
        mask or not spans for mask, spans in zip(suspicious(pa.array(texts)).to_pylist(), truth, strict=True)
    )
    monkeypatch.setitem(sys.modules, "re2", None)
    without_re2 = gates.look.__wrapped__(frozenset(ALL))
    assert all(
        {span.kind for span in spans} <= without_re2(text) for text, spans in zip(texts, truth, strict=True)
    )


@settings(max_examples=80)
@given(
    st.randoms(use_true_random=False),
    st.sampled_from(sorted(MAKERS)),
    st.text(max_size=12),
    st.text(max_size=12),
)
def test_suspicious_is_never_false_where_something_is_found(
    random: Random, kind: str, before: str, after: str
) -> None:
    text = before + sentence(random, kind, MAKERS[kind](random))[0] + after + near_miss(random)
    spans = find_without_gates(text)
    assert find(text) == spans
    assert suspicious(pa.array([text, None])).to_pylist()[0] or not spans
    assert all(left.end <= right.start for left, right in pairwise(spans))


@settings(max_examples=300)
@given(st.text(alphabet="0123456789 -.:/@+()xAaBbFf<>_\u00a0\n", max_size=80))
def test_gates_and_idempotence_hold_on_noise(text: str) -> None:
    assert find(text) == find_without_gates(text)
    once, _ = Replacer().replace([text])
    assert all("<" in part or part == text for part in once)


def test_masked_examples_hold_nothing_in_the_clear(labelled: list[Case]) -> None:
    assert mask("email", "john.doe@acme.com") == "j***@***.com"
    for case in labelled[:300]:
        for (kind, shown), value in zip(
            examples(case.texts, Replacer().find(case.texts)),
            [v for text in case.texts for v in _values(text)],
            strict=True,
        ):
            assert value not in shown
            assert kind in ("api_key", "private_key", "secret", "street_address", "crypto_wallet") or not any(
                map(str.isdigit, shown)
            )


def test_only_the_kinds_asked_for_are_found() -> None:
    text = "ann@acme.io https://acme.io/about 8.8.4.200"
    assert [span.kind for span in find(text, kinds=("ip_address",))] == ["ip_address"]
    assert [span.kind for span in find(text, kinds=("url", "email"))] == ["email", "url"]
    with pytest.raises(ConfigError, match="e_mail"):
        find(text, kinds=("e_mail",))


def test_regions_narrow_national_numbers() -> None:
    assert _kinds("12345678Z or 123-45-6789") == ["national_id", "national_id"]
    assert [span.start for span in find("12345678Z or 123-45-6789", regions=("US",))] == [13]


def test_a_recogniser_adds_its_kinds() -> None:
    def names(text: str) -> list[Span]:
        start = text.find("Ann")
        return [Span("person", start, start + 3)] if start >= 0 else []

    texts, counts = Replacer(recognisers=(names,)).replace(["Ann, ann@acme.io", "Hi Ann"])
    assert texts == ["<PERSON_1>, <EMAIL_1>", "Hi <PERSON_1>"]
    assert counts == {"person": 2, "email": 1}


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline_lib.personal_data import surrogates

    monkeypatch.setitem(sys.modules, "faker", None)
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    surrogates._faker.cache_clear()
    with pytest.raises(ConfigError, match="Faker"):
        Replacer().replace(["ann@acme.io"], mode="surrogate")
    with pytest.raises(ConfigError, match="presidio-analyzer"):
        presidio_recogniser()
    surrogates._faker.cache_clear()


@pytest.mark.skipif(importlib.util.find_spec("faker") is None, reason="Faker is an extra")
class TestSurrogates:
    """Surrogates are valid, consistent, and repeat for the same conversation and seed."""

    def test_are_consistent_and_seeded(self) -> None:
        turns = ["I am ann@acme.io at 8.8.4.200", "ANN@acme.io again, bob@acme.io too"]
        first, counts = Replacer(seed=3).replace(turns, mode="surrogate", conversation="c1")
        again, _ = Replacer(seed=3).replace(turns, mode="surrogate", conversation="c1")
        other, _ = Replacer(seed=3).replace(turns, mode="surrogate", conversation="c2")
        assert first == again != other
        assert first[0].split()[2] == first[1].split()[0] != first[1].split()[2]
        assert counts == {"email": 3, "ip_address": 1}

    @pytest.mark.parametrize("kind", sorted(MAKERS))
    def test_replace_every_value(self, kind: str) -> None:
        for case in cases(32, seed=5):
            values = [
                text[start:end]
                for text, labels in zip(case.texts, case.labels, strict=True)
                for label, start, end in labels
                if label == kind
            ]
            texts, _ = Replacer(kinds=(kind,)).replace(case.texts, mode="surrogate")
            assert not any(value in text for value in values for text in texts)

    def test_are_valid_in_form(self) -> None:
        texts = [
            "4111 1111 1111 1111",
            "GB82 WEST 1234 5698 7654 32",
            "Call (415) 323-2671",
            "SSN 123-45-6789",
            "VIN 1M8GDM9AXKP042788",
        ]
        card, iban, phone, social, vehicle = Replacer().replace(texts, mode="surrogate")[0]
        assert luhn.is_valid(card.replace(" ", ""))
        assert iban_number.is_valid(iban, check_country=False)
        assert phonenumbers.is_possible_number(phonenumbers.parse(phone.removeprefix("Call "), "US"))
        assert phone[11:].startswith("555-01")
        assert (_kinds(social), _kinds(vehicle)) == (["national_id"], ["vehicle"])


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
def test_false_alarms_on_gsm8k_stay_under_one_in_a_thousand() -> None:
    files = sorted((DATA / "gsm8k").rglob("t*.jsonl"))
    problems = [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    alarms = [
        span
        for problem in problems
        for text in (problem["question"], problem["answer"])
        for span in find(text)
    ]
    assert len(problems) > 8000
    assert len(alarms) <= len(problems) / 1000


@pytest.mark.parametrize(
    "unit", ["a-", "2000-", "12-", "sk-a", "1.", "a@", "0a:", "1 ", "A1 ", "12 A ", "born ", "eyJ"]
)
def test_a_long_monotonous_text_takes_no_long_time(unit: str) -> None:
    started = time.process_time()
    find_without_gates(unit * (20_000 // len(unit)))
    assert time.process_time() - started < 5
