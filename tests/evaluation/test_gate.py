"""The gate opens and closes for the reasons that its rules name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline_lib.core.errors import DataError
from pipeline_lib.core.store import Store
from pipeline_lib.evaluation import tables
from pipeline_lib.evaluation.gate import GateConfig, gate
from pipeline_lib.kinds import Evaluation

NO_RULE = {"max_p_value": None, "min_stopped": None, "champion_p_value": None}
REFERENCE = "Return the number of items in a container."


def evaluation(
    directory: Path,
    per_token: float,
    *,
    answer: str = REFERENCE,
    stopped: float = 1.0,
    rows: int = 60,
    prefix: str = "c",
    spread: float = 0.3,
    sliced: tuple[str, ...] = (),
    noise: int = 7,
    tokens: int = 10,
) -> Evaluation:
    """An evaluation of conversations whose negative log-likelihood per token varies around ``per_token``."""
    drawn = np.random.default_rng(noise).normal(0, spread, rows)
    made = [
        {
            "id": f"{prefix}{i:03d}",
            "source": "made",
            "prompt": "[]",
            "reference": REFERENCE,
            "answer": answer,
            "stopped": i < stopped * rows,
            "nll": float((per_token + drawn[i]) * tokens),
            "tokens": tokens,
            "answer_tokens": 8,
            "metadata": json.dumps({"topic": ["loops", "lists"][i % 2]} if i else {}),
        }
        for i in range(rows)
    ]
    directory.mkdir()
    table = pa.Table.from_pylist(made, tables.ANSWERS)
    tables.write(directory, table, pa.Table.from_pylist([], tables.EXCLUDED))
    slices = {name: {} for name in sliced}
    (directory / "scores.json").write_text(json.dumps({"scores": tables.scores(table), "slices": slices}))
    return Evaluation(directory, f"digest of {directory.name}")


def verdict(tmp_path: Path, base: Evaluation, tuned: Evaluation, **config: Any) -> dict[str, Any]:
    return (
        Store(tmp_path / "store").materialize(gate.recipe(GateConfig(**config), base, tuned)).artifact.read()
    )


def failed(found: dict[str, Any]) -> list[str]:
    return [rule["rule"] for rule in found["rules"] if not rule["passed"]]


def test_a_better_model_that_stops_opens_the_gate(tmp_path: Path) -> None:
    found = verdict(tmp_path, evaluation(tmp_path / "b", 4.0), evaluation(tmp_path / "t", 3.0))
    assert found["open"]
    assert [rule["rule"] for rule in found["rules"]] == [
        "beats_base",
        "holds_against_champion",
        "stops_by_itself",
    ]
    both = found["comparison"]["perplexity"]
    rule = found["rules"][0]
    assert (rule["value"], rule["threshold"]) == (both["difference"]["value"], 0.05)
    assert (rule["metric"], rule["asked"]) == (
        "perplexity, less the base model's",
        "below 0 with p below 0.05",
    )
    assert math.log(both["base"] / both["tuned"]) == pytest.approx(1.0, abs=1e-9)
    assert both["difference"]["high"] < 0
    assert both["difference"]["p_value"] < 0.05
    assert set(found["comparison"]) == {
        "perplexity",
        "rouge1",
        "rouge2",
        "rougeL",
        "bleu",
        "chrf",
        "exact_match",
        "token_f1",
        "stopped",
        "rougeLsum",
        "answer_words",
        "repetition",
        "empty",
    }


def test_the_same_model_does_not_beat_itself(tmp_path: Path) -> None:
    found = verdict(tmp_path, evaluation(tmp_path / "b", 3.0), evaluation(tmp_path / "t", 3.0))
    assert not found["open"]
    assert failed(found) == ["beats_base"]


def test_a_worse_model_closes_the_gate_though_the_difference_is_sure(tmp_path: Path) -> None:
    found = verdict(tmp_path, evaluation(tmp_path / "b", 3.0), evaluation(tmp_path / "t", 3.5))
    assert found["comparison"]["perplexity"]["difference"]["p_value"] < 0.05
    assert failed(found) == ["beats_base"]


def test_three_conversations_prove_nothing(tmp_path: Path) -> None:
    found = verdict(
        tmp_path, evaluation(tmp_path / "b", 4.0, rows=3), evaluation(tmp_path / "t", 2.0, rows=3)
    )
    assert failed(found) == ["beats_base"]


def test_a_model_that_does_not_stop_closes_the_gate(tmp_path: Path) -> None:
    found = verdict(tmp_path, evaluation(tmp_path / "b", 4.0), evaluation(tmp_path / "t", 3.0, stopped=0.9))
    assert failed(found) == ["stops_by_itself"]
    rule = found["rules"][-1]
    assert rule["low"] < 0.9 < rule["high"]
    assert rule["value"] == pytest.approx(0.9)
    assert rule["threshold"] == 0.95
    assert rule["asked"] == "at least 0.95"
    assert "90.0%" in rule["reason"]


def test_rules_apply_where_they_have_a_threshold(tmp_path: Path) -> None:
    base, tuned = evaluation(tmp_path / "b", 4.0, answer="the number"), evaluation(tmp_path / "t", 3.0)
    strict = verdict(tmp_path, base, tuned, **NO_RULE, min_rouge_ratio=2.0, max_perplexity=5.0)
    assert {rule["rule"]: rule["passed"] for rule in strict["rules"]} == {
        "gains_rouge": True,
        "low_perplexity": False,
    }
    assert verdict(tmp_path, base, tuned, **NO_RULE) == {
        "open": True,
        "rules": [],
        "comparison": strict["comparison"],
        "slices": {},
    }


def test_a_base_model_without_a_word_in_common_does_not_break_the_ratio(tmp_path: Path) -> None:
    found = verdict(
        tmp_path,
        evaluation(tmp_path / "b", 4.0, answer=""),
        evaluation(tmp_path / "t", 3.0),
        min_rouge_ratio=2.0,
    )
    assert found["open"]
    assert found["rules"][-1]["value"] is None


def test_only_conversations_that_both_were_measured_on_are_compared(tmp_path: Path) -> None:
    base, tuned = evaluation(tmp_path / "b", 4.0, rows=60), evaluation(tmp_path / "t", 3.0, rows=40)
    artifact = Store(tmp_path / "store").materialize(gate.recipe(GateConfig(), base, tuned)).artifact
    assert artifact.manifest.stats["conversations"] == 40


def test_models_without_a_common_conversation_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="share no conversation"):
        verdict(tmp_path, evaluation(tmp_path / "b", 4.0), evaluation(tmp_path / "t", 3.0, prefix="other"))


def test_each_slice_is_compared_within_its_groups(tmp_path: Path) -> None:
    slices = ("source", "length", "topic")
    base = evaluation(tmp_path / "b", 4.0, sliced=slices)
    found = verdict(tmp_path, base, evaluation(tmp_path / "t", 3.0, sliced=slices))["slices"]
    assert set(found) == set(slices)
    assert {group: one["count"] for group, one in found["topic"].items()} == {"lists": 30, "loops": 29}
    whole = evaluation(tmp_path / "w", 3.0).scores()["scores"]["perplexity"]["value"]
    assert found["source"]["made"]["perplexity"]["tuned"] == pytest.approx(whole)
    assert found["topic"]["lists"]["perplexity"]["difference"]["high"] < 0


@pytest.mark.parametrize(("after", "opens"), [(3.05, True), (3.5, False)])
def test_what_the_training_forgot_closes_the_gate(tmp_path: Path, after: float, opens: bool) -> None:
    base, tuned = evaluation(tmp_path / "b", 4.0), evaluation(tmp_path / "t", 3.0)
    before = evaluation(tmp_path / "gb", 3.0, prefix="g")
    general = evaluation(tmp_path / "gt", after, prefix="g")
    recipe = gate.recipe(GateConfig(), base, tuned, None, before, general)
    found = Store(tmp_path / "store").materialize(recipe).artifact.read()
    assert found["open"] is opens
    rule = found["rules"][-1]
    assert rule["rule"] == "keeps_general"
    assert rule["value"] == pytest.approx(math.exp(after - 3.0) - 1)
    assert rule["low"] <= rule["value"] <= rule["high"]


@pytest.mark.parametrize("lengths", [[3], [3, 3, 3], [0, 1, 2, 3, 4, 5, 6, 7], [5] * 9 + [50]])
def test_every_conversation_is_in_one_group_of_lengths(lengths: list[int]) -> None:
    rows = [{"id": str(i), "reference": "w " * count} for i, count in enumerate(lengths)]
    masks = [
        mask.to_pylist() for _, mask in tables.groups(pa.Table.from_pylist(rows, tables.ANSWERS), "length")
    ]
    assert [sum(row) for row in zip(*masks, strict=True)] == [1] * len(lengths)


def against(tmp_path: Path, champion: Evaluation, **config: Any) -> dict[str, Any]:
    base, tuned = evaluation(tmp_path / "b", 4.0), evaluation(tmp_path / "t", 3.0)
    recipe = gate.recipe(GateConfig(**config), base, tuned, None, None, None, champion)
    return Store(tmp_path / "store").materialize(recipe).artifact.read()


@pytest.mark.parametrize(("per_token", "opens"), [(3.2, True), (3.0, True), (2.8, False)])
def test_a_model_may_equal_the_champion_and_not_lose_to_it(
    tmp_path: Path, per_token: float, opens: bool
) -> None:
    found = against(tmp_path, evaluation(tmp_path / "c", per_token))
    assert found["open"] is opens
    assert failed(found) == ([] if opens else ["holds_against_champion"])
    both = found["champion"]["perplexity"]
    assert both["difference"]["value"] == pytest.approx(both["tuned"] - both["champion"])


def test_losing_by_chance_is_not_losing(tmp_path: Path) -> None:
    found = against(tmp_path, evaluation(tmp_path / "c", 2.999, noise=11))
    rule = next(rule for rule in found["rules"] if rule["rule"] == "holds_against_champion")
    assert rule["low"] < 0 < rule["high"]
    assert rule["passed"]


def test_a_champion_with_other_tokens_is_compared_per_token_of_the_tuned_model(tmp_path: Path) -> None:
    found = against(tmp_path, evaluation(tmp_path / "c", 1.5, tokens=20))["champion"]["perplexity"]
    assert math.log(found["champion"]) == pytest.approx(math.log(found["tuned"]), abs=0.2)
