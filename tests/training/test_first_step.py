"""A training whose weights do not all learn stops before its first update and says which do not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline_lib.core.errors import StageError
from pipeline_lib.training.first_step import EveryWeightLearns, LongestBatchFirst
from tests.training import tiny_training as tiny


def stepped(used: bool) -> Any:
    """Return a model after one backward pass through its first layer, and its second where it is used."""
    import torch

    model = torch.nn.ModuleDict({"near": torch.nn.Linear(2, 2), "far": torch.nn.Linear(2, 2)})
    result = model["near"](torch.ones(1, 2))
    (model["far"](result) if used else result).sum().backward()
    return model


def test_a_weight_without_a_gradient_stops_the_run_by_name() -> None:
    nothing: Any = SimpleNamespace()
    with pytest.raises(StageError, match=r"2 trainable weights received no gradient.*far\.weight, far\.bias"):
        EveryWeightLearns().on_pre_optimizer_step(nothing, nothing, nothing, model=stepped(used=False))


def test_frozen_weights_need_none_and_only_the_first_step_is_looked_at() -> None:
    nothing: Any = SimpleNamespace()
    model = stepped(used=False)
    model["far"].requires_grad_(False)
    look = EveryWeightLearns()
    look.on_pre_optimizer_step(nothing, nothing, nothing, model=model)
    look.on_pre_optimizer_step(nothing, nothing, nothing, model=stepped(used=False))
    EveryWeightLearns().on_pre_optimizer_step(nothing, nothing, nothing, model=stepped(used=True))


@tiny.LIBRARIES_WARN
def test_trying_the_longest_batch_first_takes_a_step_of_the_longest_and_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import Trainer

    where = tiny.place(tmp_path)
    dropping = {"epochs": 1, "batching": "random", "lora": tiny.LORA.model_copy(update={"dropout": 0.3})}
    passes: list[torch.Size] = []
    stepping = Trainer.training_step

    def watched(trainer: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        passes.append(inputs["input_ids"].shape)
        return stepping(trainer, model, inputs, *rest)

    monkeypatch.setattr(Trainer, "training_step", watched)
    tried = tiny.train_here(where, "tried", **dropping)
    assert len(passes) == 1 + 6
    assert passes[0] == (1, 4 * 11)
    monkeypatch.setattr(LongestBatchFirst, "on_train_begin", lambda *_, **__: None)
    untried = tiny.train_here(where, "untried", **dropping)
    assert tried.losses == untried.losses
    assert all(torch.equal(tried.weights()[name], value) for name, value in untried.weights().items())
