"""Preference, reward and reinforcement: the right tokens in front of TRL's trainers, and what they learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.training.objectives import DpoConfig, Reward
from pipeline_lib.training.rewards import length_score, reference_f1, same_number, scorer
from pipeline_lib.training.train import TrainConfig, outside
from tests.training.tiny_training import LIBRARIES_WARN, Place, Run, merge_here, pairs, place, train_here

pytestmark = LIBRARIES_WARN

FAST = {"learning_rate": 1e-2, "lora": {"rank": 4, "dropout": 0.0}}


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("preference"))


@pytest.fixture(scope="module")
def tokens(where: Place) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Tokens for every kind of objective, with what was counted."""
    return {
        objective: pairs(where.root / objective, where.base, objective)
        for objective in ("preference", "feedback", "prompts")
    }


@pytest.fixture(scope="module")
def reward_model(where: Place, tokens: dict[str, tuple[Path, dict[str, Any]]]) -> tuple[Run, Path]:
    """A trained reward model, merged."""
    run = train_here(where, "reward", tokens["preference"][0], objective="reward", **FAST)
    return run, merge_here(where, run)[0]


def test_a_pair_is_one_prompt_as_it_is_asked_and_two_answers_that_end(
    where: Place, tokens: dict[str, tuple[Path, dict[str, Any]]]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(where.base)
    row = pq.read_table(tokens["preference"][0] / "train-00000.parquet").to_pylist()[0]
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "say 0"}], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(row["prompt_ids"]) == asked
    assert tokenizer.decode(row["chosen_ids"]) == f"yes 0{tokenizer.eos_token}"
    assert tokenizer.decode(row["rejected_ids"]) == f"no 0{tokenizer.eos_token}"


def test_equal_answers_are_dropped_with_the_reason_and_all_is_counted(
    tokens: dict[str, tuple[Path, dict[str, Any]]],
) -> None:
    directory, stats = tokens["preference"]
    train = stats["train"]
    assert train["read"] == train["kept"] + train["dropped"] == 24
    assert train["reasons"] == {"equal_answers": 1}
    assert pq.read_table(directory / "dropped-train.parquet").to_pylist()[0]["id"] == "train3"
    rows = pq.read_table(directory / "train-00000.parquet").to_pylist()
    assert train["learnt_tokens"] == sum(len(row["chosen_ids"]) for row in rows)
    assert train["rejected_tokens"] == sum(len(row["rejected_ids"]) for row in rows)


def test_answers_that_are_cut_are_counted(
    where: Place, tokens: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    prompt = pq.read_table(tokens["preference"][0] / "train-00000.parquet")["prompt_ids"][0].as_py()
    cut = {"too_long": "truncate", "max_length": len(prompt) + 3}
    directory, stats = pairs(tmp_path / "cut", where.base, "preference", **cut)
    rows = pq.read_table(directory / "train-00000.parquet").to_pylist()
    assert all(len(row["chosen_ids"]) <= 3 for row in rows)
    train = stats["train"]
    assert train["truncated"] == train["without_stop"] == train["kept"] == len(rows)
    assert tokens["preference"][1]["train"]["truncated"] == 0


def test_a_pair_gives_feedback_one_answer_of_each_label(
    tokens: dict[str, tuple[Path, dict[str, Any]]],
) -> None:
    directory, stats = tokens["feedback"]
    rows = pq.read_table(directory / "train-00000.parquet").to_pylist()
    assert [row["label"] for row in rows] == [True, False] * 23
    for name, label in (("learnt_tokens", True), ("rejected_tokens", False)):
        wanted = sum(len(row["completion_ids"]) for row in rows if row["label"] is label)
        assert stats["train"][name] == wanted


def test_only_the_end_of_what_is_learnt_is_missed(where: Place, tmp_path: Path) -> None:
    """A rejected answer that is cut makes no model that never stops."""
    shown = pairs(tmp_path / "whole", where.base, "preference")[0]
    rows = pq.read_table(shown / "train-00000.parquet").to_pylist()
    longest = max(len(row["prompt_ids"] + row["chosen_ids"]) for row in rows)
    values = {"too_long": "truncate", "max_length": longest, "rejected": "no, never at all"}
    for objective in ("preference", "feedback"):
        train = pairs(tmp_path / objective, where.base, objective, **values)[1]["train"]
        assert train["truncated"] == 23
        assert train["without_stop"] == 0


@pytest.mark.parametrize(
    ("objective", "values"),
    [
        ("dpo", {}),
        (
            "dpo",
            {"dpo": {"loss": ["sigmoid", "sft"], "loss_weights": [1, 0.5], "precompute_reference": True}},
        ),
        ("dpo", {"dpo": {"loss": ["ipo"]}, "method": "full", "learning_rate": 1e-3}),
        ("kto", {}),
        ("kto", {"kto": {"loss": "apo_zero_unpaired"}}),
    ],
)
def test_preference_training_parts_the_answers(
    objective: str,
    values: dict[str, Any],
    where: Place,
    tokens: dict[str, tuple[Path, dict[str, Any]]],
    request: Any,
) -> None:
    data = tokens["preference" if objective == "dpo" else "feedback"][0]
    run = train_here(where, request.node.callspec.id, data, objective=objective, **{**FAST, **values})
    assert run.stats["eval_rewards/margins"] > 0.05
    assert run.stats["eval_rewards/chosen"] > run.stats["eval_rewards/rejected"]


def test_the_reference_of_dpo_is_the_model_that_training_began_with(
    where: Place, tokens: dict[str, tuple[Path, dict[str, Any]]]
) -> None:
    """Before the first step policy and reference agree, so the loss is log 2 whatever the pair."""
    run = train_here(where, "dpo-start", tokens["preference"][0], objective="dpo", max_steps=1, **FAST)
    assert run.losses[0] == pytest.approx(0.693147, abs=1e-5)


def test_a_reward_model_scores_the_chosen_answer_higher(
    reward_model: tuple[Run, Path], tokens: dict[str, tuple[Path, dict[str, Any]]]
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    run, merged = reward_model
    assert run.stats["eval_accuracy"] == 1.0
    assert json.loads((merged / "config.json").read_text())["architectures"] == [
        "LlamaForSequenceClassification"
    ]
    model = AutoModelForSequenceClassification.from_pretrained(merged).eval()
    row = pq.read_table(tokens["preference"][0] / "validation-00000.parquet").to_pylist()[0]
    with torch.no_grad():
        good, bad = (
            model(torch.tensor([row["prompt_ids"] + row[side]])).logits.item()
            for side in ("chosen_ids", "rejected_ids")
        )
    # As far apart as in training: what was trained is what was saved.
    assert good - bad > 1


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_reinforcement_asks_functions_and_reward_models(
    objective: str,
    where: Place,
    tokens: dict[str, tuple[Path, dict[str, Any]]],
    reward_model: tuple[Run, Path],
) -> None:
    rewards = [{"function": "length", "words": 2}, {"model": str(reward_model[1]), "weight": 0.5}]
    rl = {"num_generations": 4, "max_completion_length": 6, "rewards": rewards}
    run = train_here(where, objective, tokens["prompts"][0], objective=objective, rl=rl, max_steps=6, **FAST)
    assert run.stats["steps"] == 6
    assert {"eval_rewards/length/mean", "eval_rewards/model/mean"} <= set(run.stats)
    assert merge_here(where, run)[1]["merged_max_difference"] < 1e-3


def test_prompts_reach_the_generator_as_they_were_tokenized(
    where: Place, tokens: dict[str, tuple[Path, dict[str, Any]]]
) -> None:
    from transformers import AutoTokenizer

    row = pq.read_table(tokens["prompts"][0] / "train-00000.parquet").to_pylist()[0]
    assert AutoTokenizer.from_pretrained(where.base).decode(row["prompt_ids"]) == row["prompt"]
    assert row["answer"] == "yes 0"


def test_named_rewards_are_what_their_names_say() -> None:
    assert reference_f1("The cat sat", "the cat") == pytest.approx(0.8)
    assert reference_f1("", "x") == 0.0
    assert same_number("so 3 + 4 = 1,007.0", "#### 1007")
    assert not same_number("no number", "no number either")
    assert length_score("a b", 2) == 1.0
    assert length_score("a b c d e", 2) == 0.0
    matches = scorer({"function": "matches", "pattern": r"^\d+$"}, [2])
    assert matches(completions=["12", "x"], completion_ids=[[1], [1]], answer=["", ""]) == [1.0, 0.0]
    stops = scorer({"function": "stops"}, [2])
    assert stops(completions=["", ""], completion_ids=[[5, 2], [5]], answer=["", ""]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: DpoConfig(loss=("exo_pair",)), "label_smoothing"),
        (lambda: DpoConfig(loss_weights=(1.0, 2.0)), "2 loss_weights for 1"),
        (lambda: Reward(), "either a function or a model"),
        (lambda: Reward(function="matches"), "pattern belongs"),
        (lambda: Reward(function="matches", pattern="("), "no regular expression"),
        (lambda: TrainConfig(early_stopping_patience=2), "load_best_model_at_end"),
        (lambda: TrainConfig(objective="dpo", method="prompt_tuning"), "take lora for dpo"),
    ],
)
def test_a_config_that_contradicts_itself_is_told(make: Any, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        make()


def test_a_reward_model_enters_by_its_content(reward_model: tuple[Run, Path], tmp_path: Path) -> None:
    config = TrainConfig.model_validate(
        {"objective": "grpo", "rl": {"rewards": [{"model": str(reward_model[1])}]}}
    )
    assert len(outside(config)["rl.rewards.0.model"]) == 64
    nowhere = TrainConfig.model_validate(
        {"objective": "grpo", "rl": {"rewards": [{"model": str(tmp_path / "none")}]}}
    )
    with pytest.raises(ConfigError, match="holds no model"):
        outside(nowhere)
