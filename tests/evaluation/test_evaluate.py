"""What the evaluate stage writes for a tiny random model, end to end through its child process."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib import records
from pipeline_lib.core.errors import DataError
from pipeline_lib.core.store import Store
from pipeline_lib.evaluation import tables
from pipeline_lib.evaluation.evaluate import EvaluateConfig, evaluate
from pipeline_lib.kinds import Dataset, Evaluation, Model
from tests.evaluation.tiny_model import tiny_model

QUESTIONS = [
    "What is a list?",
    "What does open do?",
    "Name a loop.",
    "What is None?",
    "Say it twice, please: what is a dict, and what is it for?",
]


def conversation(name: str, question: str, answer: str | None) -> dict[str, Any]:
    messages = [records.message("user", question)]
    messages += [records.message("assistant", answer)] if answer is not None else []
    return {"id": name, "source": "made", "messages": messages, "metadata": "{}"}


def split_of(directory: Path, rows: list[dict[str, Any]]) -> Dataset:
    directory.mkdir()
    with records.DatasetWriter(directory, parts=("train", "validation", "test")) as writer:
        if rows:
            writer.write("test", records.from_rows(rows))
    return Dataset(directory, f"digest of {directory.name}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(tiny_model(tmp_path_factory.mktemp("model") / "m", positions=96), "digest of the model")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rows = [conversation(f"c{i}", question, f"It is number {i}.") for i, question in enumerate(QUESTIONS)]
    rows += [conversation("open", "Nobody answers?", None), conversation("long", "word " * 200, "Too long.")]
    return split_of(tmp_path_factory.mktemp("data") / "d", rows)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset, model: Model) -> Evaluation:
    store = Store(tmp_path_factory.mktemp("store"))
    config = EvaluateConfig(max_conversations=4, max_new_tokens=8, precision="fp32")
    return store.materialize(evaluate.recipe(config, dataset, model)).artifact


def test_every_conversation_is_measured_or_excluded_with_a_reason(evaluation: Evaluation) -> None:
    answers = pq.read_table(evaluation.file("answers.parquet")).to_pylist()
    excluded = pq.read_table(evaluation.file("excluded.parquet")).to_pylist()
    assert [row["id"] for row in answers] == ["c0", "c1", "c2", "c3", "c4"]
    assert [(row["id"], row["reason"]) for row in excluded] == [
        ("open", "no_answer"),
        ("long", "prompt_too_long"),
    ]
    stats = evaluation.manifest.stats
    assert stats["read"] == stats["kept"] + stats["dropped"] == 7


def test_an_answer_stands_beside_its_prompt_and_reference(evaluation: Evaluation) -> None:
    rows = pq.read_table(evaluation.file("answers.parquet")).to_pylist()
    assert json.loads(rows[0]["prompt"]) == [{"role": "user", "content": "What is a list?"}]
    assert rows[0]["reference"] == "It is number 0."
    assert sum(row["answer"] is not None for row in rows) == 4
    assert all(row["nll"] > 0 and row["tokens"] > 0 for row in rows)
    assert all(row["answer_tokens"] <= 8 for row in rows if row["answer"] is not None)


def test_the_score_table_has_every_metric_within_its_interval(evaluation: Evaluation) -> None:
    table = evaluation.scores()
    assert (table["count"], table["answered"]) == (5, 4)
    wanted = {
        "perplexity",
        "perplexity_whole",
        "rouge1",
        "rouge2",
        "rougeL",
        "rougeLsum",
        "bleu",
        "chrf",
        "exact_match",
        "token_f1",
        "stopped",
        "answer_words",
        "repetition",
    }
    assert wanted <= set(table["scores"])
    assert all(
        score["low"] <= score["value"] <= score["high"]
        for name, score in table["scores"].items()
        if name not in ("bleu", "chrf")
    )
    assert set(table["signatures"]) == {"rouge", "bleu", "chrf"}
    assert table["excluded"] == {"no_answer": 1, "prompt_too_long": 1}


def test_the_same_recipe_yields_the_same_bytes(
    tmp_path: Path, evaluation: Evaluation, dataset: Dataset, model: Model
) -> None:
    config = EvaluateConfig(max_conversations=4, max_new_tokens=8, precision="fp32")
    again = Store(tmp_path).materialize(evaluate.recipe(config, dataset, model)).artifact
    assert again.digest == evaluation.digest
    assert (again.path / "logs" / "speed.json").exists()


def test_an_empty_test_split_names_what_to_change(tmp_path: Path, model: Model) -> None:
    empty = split_of(tmp_path / "empty", [])
    with pytest.raises(DataError, match=r"split\.test"):
        Store(tmp_path / "store").materialize(evaluate.recipe(EvaluateConfig(), empty, model))


def test_weights_that_no_longer_load_are_named_with_what_to_do(tmp_path: Path) -> None:
    from pipeline_lib.evaluation.loading import load_model

    directory = tiny_model(tmp_path / "m")
    (directory / "model.safetensors").write_bytes(b"cut short")
    spec = {"model": str(directory), "device": "cpu", "config": {"precision": "fp32", "template": None}}
    with pytest.raises(DataError, match=r"does not load .*promote"):
        load_model(spec)


def test_an_empty_answer_and_a_lone_row_without_reference_are_scored_as_what_they_are() -> None:
    rows = [
        {"reference": "It is so.", "answer": "", "nll": 2.0, "tokens": 2, "stopped": True},
        {"reference": None, "answer": "It may be.", "nll": 0.0, "tokens": 0, "stopped": False},
        {"reference": "It is so.", "answer": "It is so.", "nll": 2.0, "tokens": 2, "stopped": True},
    ]
    found = tables.scores(pa.Table.from_pylist(rows, tables.ANSWERS))
    assert found["exact_match"]["value"] == found["rougeL"]["value"] == 0.5
    assert found["empty"]["value"] == pytest.approx(1 / 3)
    assert found["stopped"]["value"] == pytest.approx(2 / 3)
    assert found["perplexity"]["value"] == pytest.approx(math.e)
    alone = tables.scores(pa.Table.from_pylist(rows[1:2], tables.ANSWERS))
    assert set(alone) == {"stopped", "answer_words", "repetition", "empty"}
