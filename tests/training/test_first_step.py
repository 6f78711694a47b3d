"""A training whose weights do not all learn stops before its first update and says which do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline_lib.core.errors import StageError
from pipeline_lib.training.first_step import EveryWeightLearns


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
