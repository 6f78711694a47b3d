"""A schedule takes the values that Transformers' own takes, and others are told before anything is loaded."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline_lib.training.schedules import NEEDED, OPTIONS, Schedule
from pipeline_lib.training.train import TrainConfig

OURS = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
LEFT_OUT = {"warmup_type", "decay_type", "num_stable_steps"}
"""No numbers, and what follows from the length of the training."""


@pytest.mark.parametrize("schedule", OPTIONS)
def test_every_schedule_is_made_with_the_values_it_takes(schedule: Schedule) -> None:
    import torch
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, get_scheduler

    takes = set(inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[schedule]).parameters)
    assert set(OPTIONS[schedule]) == takes - OURS - LEFT_OUT
    options = {name: 1e-9 if name == "lr_end" else 1.0 for name in OPTIONS[schedule]}
    for name in NEEDED.get(schedule, ())[1:]:
        del options[name]
    config = TrainConfig(schedule=schedule, schedule_options=options)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    get_scheduler(config.schedule, optimizer, 2, 10, scheduler_specific_kwargs=config.schedule_options)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"schedule": "warmup_stable_decay"}, "needs schedule_options with num_decay_steps"),
        ({"schedule": "cosine_with_min_lr"}, "needs schedule_options with min_lr or min_lr_rate"),
        ({"schedule_options": {"min_lr": 0}}, "cosine has no min_lr; it takes num_cycles"),
        ({"schedule": "linear", "schedule_options": {"power": 2}}, "linear has no power; it takes none"),
    ],
)
def test_a_schedule_that_cannot_be_made_is_told(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TrainConfig.model_validate(values)
