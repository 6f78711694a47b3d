"""Preference runs on the test split: likelihoods of both answers, rewards, and how two models compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline_lib import records
from pipeline_lib.core.errors import DataError
from pipeline_lib.evaluation import tables
from pipeline_lib.evaluation.evaluate import EvaluateConfig, read_outside
from pipeline_lib.evaluation.gate import GateConfig, compare, judge
from pipeline_lib.evaluation.rules import Evidence
from pipeline_lib.evaluation.worker import work
from pipeline_lib.kinds import Dataset
from tests.evaluation.tiny_model import tiny_model

STRICT = (
    "{% for m in messages %}{% if m['content'] == 'refused' %}{{ raise_exception('not this') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}{% if m['role'] == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def row(name: str, question: str, chosen: str | None, rejected: str | None, **more: Any) -> dict[str, Any]:
    sides = {"chosen": chosen, "rejected": rejected}
    pair = {side: [records.message("assistant", text)] for side, text in sides.items() if text is not None}
    return {"id": name, "source": "made", "messages": [records.message("user", question)], **pair, **more}


def answered(name: str, question: str, answer: str, **more: Any) -> dict[str, Any]:
    messages = [records.message("user", question), records.message("assistant", answer)]
    return {"id": name, "source": "made", "messages": messages, **more}


ROWS = [
    row("p0", "Say yes.", "yes", "no"),
    row("p1", "Which one?", "this one", "that other one"),
    row("p2", "Count.", "1 2 3", "3 2 1"),
    answered("s0", "Plain?", "plain"),
    answered("u0", "Thumbs?", "down", label=False),
    answered("u1", "Thumbs?", "up", label=True),
    answered("u2", "And now?", "neither up nor down", label=False),
    answered("u3", "Once more?", "up and away", label=True),
    answered("u4", "At last?", "away", label=False),
    answered("r0", "refused", "never"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("data")
    with records.DatasetWriter(path, parts=("train", "validation", "test")) as writer:
        writer.write("test", records.from_rows(ROWS))
    return Dataset(path, "digest of the data")


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoModelForSequenceClassification

    path = tiny_model(tmp_path_factory.mktemp("reward") / "m", template=STRICT)
    torch.manual_seed(3)
    AutoModelForSequenceClassification.from_pretrained(path, num_labels=1).save_pretrained(path)
    return path


def measured(where: Path, dataset: Dataset, seed: int, reward_model: Path | None = None) -> pa.Table:
    config = EvaluateConfig(max_new_tokens=6, precision="fp32", reward_model=reward_model)
    work_directory = where / f"work{seed}"
    work_directory.mkdir()
    spec = {
        "config": config.model_dump(mode="json"),
        "shards": [str(shard) for shard in dataset.shards("test")],
        "model": str(tiny_model(where / f"m{seed}", seed=seed, template=STRICT)),
        "work": str(work_directory),
        "device": "cpu",
    }
    work(spec, lambda **_: None)
    part = json.loads((work_directory / "part-0.json").read_text())
    test = tables.read_test(dataset)
    reasons = {item["id"]: item["reason"] for item in tables.excluded(test, [part]).to_pylist()}
    assert reasons == {"r0": "not_rendered"}
    assert part["speed"]["first_token"]["requests"] == 6
    assert 0 < part["speed"]["first_token"]["median_ms"] <= part["speed"]["first_token"]["p95_ms"]
    return tables.answers(test, [part])


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory, dataset: Dataset, reward_model: Path
) -> tuple[pa.Table, pa.Table, Path]:
    where = tmp_path_factory.mktemp("models")
    return measured(where, dataset, 1, reward_model), measured(where, dataset, 2, reward_model), where


def log_probability(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    """One answer by itself, token by token."""
    import torch

    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    said = tokenizer(answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([before + said])).logits[0].log_softmax(-1)
    return sum(float(logits[len(before) + i - 1, token]) for i, token in enumerate(said))


def log_probabilities(path: Path) -> dict[str, dict[str, float]]:
    """Of every pair both sides; of a labelled answer the one that its label says."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    found: dict[str, dict[str, float]] = {}
    for item in ROWS:
        sides = {side: item[side][0]["content"] for side in ("chosen", "rejected") if side in item}
        if "label" in item:
            sides = {"chosen" if item["label"] else "rejected": item["messages"][1]["content"]}
        prompt = f"<user>{item['messages'][0]['content']}<assistant>"
        found[item["id"]] = {
            side: log_probability(model, tokenizer, prompt, f"{text}<|endoftext|>")
            for side, text in sides.items()
        }
    return found


def test_both_answers_of_a_pair_have_the_likelihood_of_a_plain_computation(
    both: tuple[pa.Table, pa.Table, Path],
) -> None:
    table, _, where = both
    found = {item["id"]: item for item in table.to_pylist()}
    for name, sides in log_probabilities(where / "m1").items():
        for side, column in (("chosen", "nll"), ("rejected", "rejected_nll")):
            if side in sides and found[name]["label"] is None:
                assert -found[name][column] == pytest.approx(sides[side], rel=1e-4)
    assert found["s0"]["rejected_nll"] is None
    assert [found[name]["reference"] for name in ("p0", "s0", "u1")] == ["yes", "plain", "up"]


def test_reward_accuracy_margin_and_win_rate_are_those_counted_by_hand(
    both: tuple[pa.Table, pa.Table, Path],
) -> None:
    tuned, base, _ = both
    leads = [
        np.array([item["rejected_nll"] - item["nll"] for item in table.to_pylist()[:3]])
        for table in (tuned, base)
    ]
    compared = compare(tables.measure(base, base), tables.measure(tuned, base))
    pairs = [table.slice(0, 3) for table in (base, tuned)]
    of_pairs = compare(tables.measure(pairs[0], pairs[0]), tables.measure(pairs[1], pairs[0]))
    assert of_pairs["reward_accuracy"]["tuned"] == pytest.approx(np.mean(leads[0] > leads[1]))
    assert of_pairs["reward_margin"]["tuned"] == pytest.approx(np.mean(leads[0] - leads[1]))
    assert (compared["reward_accuracy"]["base"], compared["reward_margin"]["base"]) == (0.5, 0.0)
    assert compared["prefers_chosen"]["base"] == pytest.approx(np.mean(leads[1] > 0))
    rewards = [np.array(table["reward"].to_pylist()) for table in (tuned, base)]
    judged = [item is not None for item in rewards[0]]
    assert sum(judged) == 6
    rewards = [side[judged].astype(float) for side in rewards]
    won = np.mean((np.sign(rewards[0] - rewards[1]) + 1) / 2)
    assert compared["win_rate"]["tuned"] == pytest.approx(won)
    assert compared["win_rate"]["base"] == 0.5
    assert "reward_accuracy" not in tables.scores(tuned)


def test_labelled_answers_have_the_rewards_of_a_plain_computation(
    both: tuple[pa.Table, pa.Table, Path],
) -> None:
    """A reward is the log-likelihood ratio of tuned and base model, in nats; pairs count on both sides."""
    tuned, base, where = both
    plain, reference = (log_probabilities(where / name) for name in ("m1", "m2"))
    gained = {
        name: {side: value - reference[name][side] for side, value in sides.items()}
        for name, sides in plain.items()
    }
    chosen, rejected = (
        np.array([sides[side] for sides in gained.values() if side in sides])
        for side in ("chosen", "rejected")
    )
    right = [
        sides["chosen"] > sides["rejected"] if len(sides) == 2 else sum(sides.values()) * sign > 0
        for sides in gained.values()
        for sign in [1 if "chosen" in sides else -1]
        if sides
    ]
    assert (len(chosen), len(rejected), len(right)) == (5, 6, 8)
    compared = compare(tables.measure(base, base), tables.measure(tuned, base))
    expected = {
        "reward_chosen": chosen.mean(),
        "reward_rejected": rejected.mean(),
        "reward_margin": chosen.mean() - rejected.mean(),
        "reward_accuracy": np.mean(right),
        "raises_chosen": np.mean(chosen > 0),
        "lowers_rejected": np.mean(rejected < 0),
    }
    for metric, value in expected.items():
        found = compared[metric]
        assert found["tuned"] == pytest.approx(value, rel=1e-4), metric
        assert found["difference"]["low"] <= found["difference"]["value"] <= found["difference"]["high"]
    # What is labelled false is no answer to give: it is neither asked for nor in the perplexity.
    unwanted = [item for item in tuned.to_pylist() if item["label"] is False]
    assert [item["answer"] for item in unwanted] == [None, None, None]
    wanted = [item for item in tuned.to_pylist() if item["label"] is not False]
    nats, tokens = (sum(item[name] for item in wanted) for name in ("nll", "tokens"))
    assert tables.scores(tuned)["perplexity"]["value"] == pytest.approx(np.exp(nats / tokens))


def test_a_margin_without_one_of_its_sides_is_not_measured(both: tuple[pa.Table, pa.Table, Path]) -> None:
    tuned, base, _ = both
    for label, missing in ((True, "reward_rejected"), (False, "reward_chosen")):
        one, other = (table.filter(pc.equal(table["label"], label)) for table in (tuned, base))
        rows = tables.measure(one, other).rows
        assert "reward_margin" not in rows
        assert missing not in rows
        assert "reward_accuracy" in rows


def test_rewards_are_those_of_one_answer_at_a_time(
    both: tuple[pa.Table, pa.Table, Path], reward_model: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    judge_model = AutoModelForSequenceClassification.from_pretrained(reward_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    for item in both[0].to_pylist():
        if item["answer"] is None:
            continue
        messages = [*json.loads(item["prompt"]), {"role": "assistant", "content": item["answer"]}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        with torch.no_grad():
            alone = judge_model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits
        assert item["reward"] == pytest.approx(float(alone[0, 0]), rel=1e-3, abs=1e-4)


def test_the_gate_asks_for_preferences_and_wins(both: tuple[pa.Table, pa.Table, Path]) -> None:
    tuned, base, _ = both
    comparison = compare(tables.measure(base, base), tables.measure(tuned, base))
    off = {"max_p_value": None, "champion_p_value": None, "min_stopped": None}
    wanted = GateConfig(**off, min_reward_accuracy=0.01, min_reward_margin=-1000.0, min_win_rate=1.0)
    rules = {rule.rule: rule for rule in judge(wanted, Evidence({}, comparison))}
    accuracy = rules["learns_preferences"]
    assert accuracy.passed is (accuracy.value >= 0.01)
    assert accuracy.low <= accuracy.value <= accuracy.high
    margin = rules["parts_answers"]
    assert margin.passed
    assert margin.value == pytest.approx(comparison["reward_margin"]["tuned"])
    strict = GateConfig(**off, min_reward_margin=margin.low + 1e-6)
    assert not judge(strict, Evidence({}, comparison))[0].passed
    unmeasured = {rule.rule: rule for rule in judge(wanted, Evidence({}, {}))}
    assert not any(rule.passed for rule in unmeasured.values())
    assert "not measured" in unmeasured["wins"].reason


def test_a_reward_model_enters_by_content(reward_model: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(reward_model, copy)
    ours, theirs = (read_outside(EvaluateConfig(reward_model=path)) for path in (reward_model, copy))
    assert ours == theirs != {}
    (copy / "config.json").write_text("{}")
    assert read_outside(EvaluateConfig(reward_model=copy)) != ours
    with pytest.raises(DataError, match="holds no model"):
        read_outside(EvaluateConfig(reward_model=tmp_path))
