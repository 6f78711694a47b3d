"""The figures of the validation split are those of its tokens, pairs and answers, one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline_lib.training.token_shards import load_tokenizer
from pipeline_lib.training.trainers import trainer_of
from pipeline_lib.training.worker import _dataset
from tests.training.tiny_training import LIBRARIES_WARN, Place, pairs, place, spec_of, train_here

pytestmark = LIBRARIES_WARN
BETA = 0.1
ROWS = 7


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("looks"))


@pytest.mark.parametrize(
    "values",
    [{}, {"attn_implementation": "sdpa"}, {"batching": "packed", "packed_length": 24}],
    ids=["in_a_row", "padded", "packed"],
)
def test_the_validation_loss_is_that_of_one_pass_over_all_its_tokens(
    where: Place, values: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """In batches of one or two sequences, whose own means weigh the tokens otherwise."""
    name = f"loss-{request.node.callspec.id}"
    run = train_here(
        where, name, **{"method": "full", "learning_rate": 1e-2, "epochs": 1, "batch_size": 1, **values}
    )
    sums = [alone(run.out, row) for row in rows(where.tokens, "validation")]
    means = [total / tokens for total, tokens in sums]
    exact = sum(total for total, _ in sums) / sum(tokens for _, tokens in sums)
    assert run.stats["eval_loss"] == pytest.approx(exact, rel=1e-5)
    assert abs(sum(means) / len(means) - exact) > 1e-4


def rows(tokens: Path, part: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(sorted(tokens.glob(f"{part}-*.parquet"))).to_pylist()
    return found


def alone(model: Path, row: dict[str, Any]) -> tuple[float, int]:
    """A sequence's summed loss and its learnt tokens, by itself."""
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([row["input_ids"]])
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        chances = loaded(ids).logits[0].double().log_softmax(-1)
    learnt = [i for i in range(1, ids.shape[1]) if row["learn"][i]]
    return -sum(float(chances[i - 1, row["input_ids"][i]]) for i in learnt), len(learnt)


@pytest.mark.parametrize(
    ("objective", "tokens", "values"),
    [
        ("dpo", "preference", {"dpo": {"beta": BETA}}),
        ("reward", "preference", {}),
        ("kto", "feedback", {"kto": {"beta": BETA, "loss": "apo_zero_unpaired"}}),
    ],
)
def test_the_figures_of_answers_are_means_over_all_of_them(
    where: Place, tmp_path: Path, objective: str, tokens: str, values: dict[str, Any]
) -> None:
    """However large the batches are, with a last one that is smaller, and labels that fall as they do."""
    data = pairs(tmp_path / "tokens", where.base, tokens, rejected="not at all")[0]
    pq.write_table(
        pq.read_table(data / "train-00000.parquet").slice(0, ROWS), data / "validation-00000.parquet"
    )
    spec = spec_of(
        where, tmp_path.name, data, **{"method": "full", "objective": objective, "batch_size": 2, **values}
    )
    parts = {part: _dataset(data, part).remove_columns("source") for part in ("train", "validation")}
    trainer: Any = trainer_of(spec, parts, load_tokenizer(data / "tokenizer"), [])
    elsewhere(trainer.model)
    one_by_one = {"dpo": by_pairs, "reward": by_scores, "kto": by_answers}[objective]
    figures = one_by_one(trainer.model.eval(), where.base, rows(data, "validation"))
    wanted = {f"eval_{name}": value for name, value in figures.items()}
    for size in (1, 2, 3, 4, ROWS):
        trainer.args.per_device_eval_batch_size = size
        found = trainer.evaluate()
        assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-4)


def elsewhere(model: Any) -> None:
    """Move every weight, so that the model is not its own reference."""
    import torch

    draw = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=draw)


def gains(model: Any, base: Path, row: dict[str, Any], answer: str) -> float:
    """How much likelier the model finds an answer than its base does: beta times the log of the ratio."""
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([row["prompt_ids"] + row[answer]])
    start = len(row["prompt_ids"])
    found = []
    for one in (model, AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()):
        with torch.no_grad():
            chances = one(ids).logits[0].double().log_softmax(-1)
        found.append(sum(float(chances[i - 1, ids[0, i]]) for i in range(start, ids.shape[1])))
    return BETA * (found[0] - found[1])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def surprise(margin: float) -> float:
    return math.log1p(math.exp(-margin))


def by_pairs(model: Any, base: Path, data: list[dict[str, Any]]) -> dict[str, float]:
    chosen, rejected = ([gains(model, base, row, f"{s}_ids") for row in data] for s in ("chosen", "rejected"))
    margins = [good - bad for good, bad in zip(chosen, rejected, strict=True)]
    return {
        "loss": mean([surprise(margin) for margin in margins]),
        "rewards/chosen": mean(chosen),
        "rewards/rejected": mean(rejected),
        "rewards/margins": mean(margins),
        "rewards/accuracies": mean([float(margin > 0) for margin in margins]),
    }


def by_scores(model: Any, base: Path, data: list[dict[str, Any]]) -> dict[str, float]:
    import torch

    margins = []
    for row in data:
        ids = [torch.tensor([row["prompt_ids"] + row[f"{side}_ids"]]) for side in ("chosen", "rejected")]
        with torch.no_grad():
            good, bad = (float(model(one).logits) for one in ids)
        margins.append(good - bad)
    return {
        "loss": mean([surprise(margin) for margin in margins]),
        "margin": mean(margins),
        "accuracy": mean([float(margin > 0) for margin in margins]),
    }


def by_answers(model: Any, base: Path, data: list[dict[str, Any]]) -> dict[str, float]:
    """APO-zero (arXiv 2408.06266, equation 7), unpaired."""
    gained = [(row["label"], gains(model, base, row, "completion_ids")) for row in data]
    chosen, rejected = ([gain for label, gain in gained if label is side] for side in (True, False))
    losses = [1 / (1 + math.exp(gain if label else -gain)) for label, gain in gained]
    return {
        "loss": mean(losses),
        "rewards/chosen": mean(chosen),
        "rewards/rejected": mean(rejected),
        "rewards/margins": mean(chosen) - mean(rejected),
    }
