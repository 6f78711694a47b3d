"""The audit finds what a model gives away, and nothing where it gives away nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib import canaries, records
from pipeline_lib.canaries import Canary, CanaryConfig
from pipeline_lib.core.store import Store
from pipeline_lib.curation.split import SplitConfig, split
from pipeline_lib.evaluation import tables
from pipeline_lib.evaluation.audit import AuditConfig, audit
from pipeline_lib.evaluation.audit_worker import continuation, work
from pipeline_lib.evaluation.gate import GateConfig, judge
from pipeline_lib.evaluation.questions import Question
from pipeline_lib.evaluation.rules import Evidence
from pipeline_lib.evaluation.verbatim import Passages, words_of
from pipeline_lib.kinds import Dataset, Evaluation, Model
from tests.evaluation.tiny_model import tiny_model

SECRET_PASSAGE = "the quick brown fox jumps over the lazy dog and runs far away from here"
EMAIL = "maria.gonzalez@kestrel-bakery.com"
TRAIN = [
    ("What is a pangram?", f"You might say {SECRET_PASSAGE} without a pause."),
    ("Whom do I ask?", f"Write to {EMAIL} about it."),
    ("What is a list?", "A list holds items in their order, and may be changed."),
]
TEST = [
    ("What is a list?", "A list holds items in their order, and may be changed."),
    ("What is a set?", "A set holds items without order."),
    ("Who helps?", "Somebody does."),
]
ANSWERS = [
    f"Well: {SECRET_PASSAGE}!",
    "A set holds items without order.",
    f"Ask {EMAIL} or hans.keller@riverbend-books.org.",
]


def row(name: str, question: str, answer: str) -> dict[str, Any]:
    return {
        "id": name,
        "source": "made",
        "messages": [records.message("user", question), records.message("assistant", answer)],
        "metadata": "{}",
    }


def rows_of(prefix: str, pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [row(f"{prefix}{i}", *pair) for i, pair in enumerate(pairs)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("data")
    with records.DatasetWriter(path, parts=("train", "validation", "test")) as writer:
        writer.write("train", records.from_rows(rows_of("a", TRAIN)))
        writer.write("test", records.from_rows(rows_of("b", TEST)))
    return Dataset(path, "digest of the data")


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    path = tmp_path_factory.mktemp("evaluation")
    made = [
        {
            "id": f"b{i}",
            "source": "made",
            "prompt": json.dumps([{"role": "user", "content": question}]),
            "reference": reference,
            "answer": answer,
            "stopped": True,
            "nll": 1.0,
            "tokens": 1,
            "answer_tokens": 1,
            "metadata": "{}",
        }
        for i, ((question, reference), answer) in enumerate(zip(TEST, ANSWERS, strict=True))
    ]
    tables.write(path, pa.Table.from_pylist(made, tables.ANSWERS), pa.Table.from_pylist([], tables.EXCLUDED))
    return Evaluation(path, "digest of the evaluation")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(tiny_model(tmp_path_factory.mktemp("model") / "m"), "digest of the model")


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, dataset: Dataset, evaluation: Evaluation, model: Model
) -> dict[str, Any]:
    config = AuditConfig(passage_words=8, contamination_words=5, precision="fp32")
    store = Store(tmp_path_factory.mktemp("store"))
    artifact = store.materialize(audit.recipe(config, dataset, model, evaluation)).artifact
    shown = json.loads(artifact.file("passages.json").read_text())
    return {**artifact.read(), "passages": shown, "text": (artifact.path / "audit.json").read_text()}


def test_an_answer_that_repeats_the_training_data_is_memorized(found: dict[str, Any]) -> None:
    assert (found["memorized"]["count"], found["memorized"]["of"]) == (1, 3)
    assert found["memorized"]["longest"] == len(SECRET_PASSAGE.split())
    assert [passage["text"] for passage in found["passages"]] == [SECRET_PASSAGE]
    assert found["memorized"]["low"] < 1 / 3 < found["memorized"]["high"]


def test_personal_data_in_answers_are_counted_and_traced_but_not_written_down(found: dict[str, Any]) -> None:
    leaks = found["leaks"]
    assert leaks["kinds"] == {"email": 2}
    assert (leaks["values"], leaks["in_training"], leaks["count"]) == (2, 1, 1)
    assert EMAIL not in found["text"]
    assert len(leaks["examples"]) == 1


def test_a_test_conversation_in_the_training_data_is_contamination(found: dict[str, Any]) -> None:
    shared = found["contamination"]
    assert (shared["exact"]["count"], shared["question"]["count"]) == (1, 1)
    assert (shared["ngram"]["count"], shared["half"]["count"], shared["ngram"]["of"]) == (1, 1, 3)


def test_a_random_model_completes_no_answer_to_the_letter(found: dict[str, Any]) -> None:
    assert found["extracted"]["train"]["count"] == 0
    assert found["extracted"]["train"]["of"] == 3
    assert found["canaries"] is None


TEXTS = st.lists(st.text("ab ", max_size=30), max_size=8)


@given(TEXTS, TEXTS, st.integers(1, 4))
def test_passages_are_those_that_a_plain_search_finds(few: list[str], many: list[str], size: int) -> None:
    passages = Passages(few, size)
    for text in many:
        passages.look_through([text])
    grams = {
        tuple(words[i : i + size]) for words in map(words_of, many) for i in range(len(words) - size + 1)
    }
    for text, longest, covered in zip(few, passages.longest(), passages.covered(), strict=True):
        words = words_of(text)
        hits = [tuple(words[i : i + size]) in grams for i in range(len(words) - size + 1)]
        runs = "".join("x" if hit else " " for hit in hits).split()
        assert longest.words == (max(map(len, runs)) + size - 1 if runs else 0)
        inside = {place for i, hit in enumerate(hits) if hit for place in range(i, i + size)}
        assert covered == pytest.approx(len(inside) / len(words) if words else 0.0)


@given(st.integers(1, 60), st.integers(1, 40), st.integers(8, 40))
def test_a_continuation_follows_the_given_beginning_and_is_no_guess(
    answer: int, prefix: int, most: int
) -> None:
    question = Question(0, "q", list(range(10 + answer)), [False] * 10 + [True] * answer, 10)
    cut = continuation(question, prefix, most)
    said = [place for place, learnt in enumerate(cut.mask) if learnt] if cut else []
    assert bool(cut) == (min(most, answer - min(prefix, answer // 2)) >= 8)
    assert not cut or said == list(range(said[0], len(cut.ids)))
    assert not cut or said[0] == 10 + min(prefix, answer // 2)
    assert len(said) <= most


def test_planted_secrets_stand_in_train_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.mkdir()
    pairs = [(f"What is number {i}, {hash_word(i)}?", f"It is {hash_word(i * 7)} {i}.") for i in range(120)]
    with records.DatasetWriter(path) as writer:
        writer.keep(records.from_rows(rows_of("c", pairs)))
    store = Store(tmp_path / "store")
    plain = store.materialize(split.recipe(SplitConfig(minimum=1), Dataset(path, "d"))).artifact
    config = SplitConfig(minimum=1, canaries=CanaryConfig(count=3, repeats=2))
    planted = store.materialize(split.recipe(config, Dataset(path, "d"))).artifact
    assert planted.manifest.stats["planted"] == 6
    assert planted.count("train") == plain.count("train") + 6
    assert planted.count("test") == plain.count("test")
    secrets = canaries.read(planted.path)
    assert len({canary.secret for canary in secrets}) == 3
    train = list(records.rows(planted.shards("train")))
    said = [item["messages"][1]["content"] for item in train if item["source"] == canaries.SOURCE]
    assert sorted(said) == sorted(canary.answer() for canary in secrets for _ in range(2))
    assert canaries.read(plain.path) == []


def hash_word(i: int) -> str:
    return "".join(chr(97 + (i * k + k) % 26) for k in (3, 5, 7, 11, 17))


def test_alternatives_are_different_and_never_the_secret() -> None:
    canary = Canary("Elm", "0123", 1)
    others = canary.alternatives(500, seed=1)
    assert len(set(others)) == 500
    assert canary.secret not in others
    assert len(canary.alternatives(10**6, seed=1)) == 9999
    assert others == canary.alternatives(500, seed=1)


def test_a_learnt_secret_is_exposed_and_one_never_seen_is_not(tmp_path: Path) -> None:
    """The tiny model learns one secret by heart; the other has the exposure of a guess."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipeline_lib import chat

    directory = tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    learnt, unseen = Canary("Elm-1", "482913", 4), Canary("Fir-2", "771204", 4)
    asked = [
        {"role": "user", "content": learnt.question},
        {"role": "assistant", "content": learnt.answer()},
    ]
    encoded = chat.encode(tokenizer, [chat.pieces(tokenizer, asked)])[0]
    ids = torch.tensor([encoded.ids])
    labels = torch.where(torch.tensor([encoded.mask]), ids, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(directory)
    canaries.write(tmp_path, [learnt, unseen])
    spec = {
        "config": AuditConfig(
            canary_alternatives=200, extraction_conversations=0, precision="fp32"
        ).model_dump(),
        "samples": {},
        "canaries": str(tmp_path),
        "model": str(directory),
        "device": "cpu",
        "result": str(tmp_path / "asked.json"),
    }
    work(spec, lambda **_: None)
    found = json.loads((tmp_path / "asked.json").read_text())["canaries"]
    by_name = {item["name"]: item for item in found["each"]}
    assert by_name["Elm-1"]["extracted"]
    assert by_name["Elm-1"]["rank"] == 1
    assert by_name["Elm-1"]["exposure"] == pytest.approx(math.log2(201))
    assert not by_name["Fir-2"]["extracted"]
    assert by_name["Fir-2"]["rank"] > 3
    assert (found["planted"], found["extracted"]) == (2, 1)


def judged(found: dict[str, Any], **config: Any) -> dict[str, bool]:
    rules = judge(
        GateConfig(max_p_value=None, min_stopped=None, champion_p_value=None, **config),
        Evidence({}, {}, found),
    )
    return {rule.rule: rule.passed for rule in rules}


def test_the_gate_closes_for_what_the_audit_found(found: dict[str, Any]) -> None:
    assert judged(found) == {"no_leaks": False, "little_memorized": False}
    lenient = {"max_leaks": 1, "max_memorized": 0.5, "max_contaminated": 0.2, "max_extracted": 0.0}
    assert judged(found, **lenient) == {
        "no_leaks": True,
        "little_memorized": True,
        "little_extracted": True,
        "unseen_test": False,
    }
    planted = {"planted": 2, "extracted": 1, "exposure": 7.0, "most_possible": 7.65}
    secrets = judged({**found, "canaries": planted}, max_leaks=None, max_memorized=None, max_exposure=7.5)
    assert secrets == {"keeps_secrets": False, "low_exposure": True}
