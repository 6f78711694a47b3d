"""The journal tells of what this process did, whatever an earlier try had done, from one source."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline_lib.core.errors import StageError
from pipeline_lib.training import journal as module
from pipeline_lib.training.journal import Journal
from pipeline_lib.training.utilisation import Yardstick
from tests.training.test_order import signalled_at
from tests.training.tiny_training import LIBRARIES_WARN, place, train_here


def test_a_resumed_training_counts_its_own_tokens_and_tells_speed_and_utilisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainerState

    clock = iter([0.0, 100.0, 102.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    told: list[dict[str, Any]] = []
    yardstick = Yardstick(flop_per_token=1e9, matrix_rate=2e12, processes=1)
    kept = Journal(tmp_path / "history.jsonl", lambda **event: told.append(event), 10_000, yardstick)
    nothing: Any = None
    kept.on_train_begin(nothing, TrainerState(epoch=0.5, global_step=5, max_steps=10), nothing)
    later = TrainerState(epoch=0.6, global_step=6, max_steps=10)
    kept.on_log(nothing, later, nothing, logs={"loss": 1.25})
    (point,) = map(json.loads, (tmp_path / "history.jsonl").read_text().splitlines())
    assert kept.tokens_here == 1000
    # A thousand tokens in two seconds are half a TFLOP/s, of two.
    assert point["tokens_per_second"] == 500.0
    assert point["model_flop_utilisation"] == 0.25
    assert told == [{"done": 6, "total": 10, "note": "loss 1.250  500 tok/s  25.0% MFU"}]


@pytest.mark.parametrize(
    ("steps", "wanted", "points"),
    [(3, None, 3), (12, None, 12), (100, None, 20), (405, None, 41), (12, 5, 3)],
)
def test_a_short_training_has_a_curve_and_every_curve_has_its_end(
    steps: int, wanted: int | None, points: int, tmp_path: Path
) -> None:
    """As Transformers' own flow asks for points, with the journal after it."""
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import DefaultFlowCallback

    kept = Journal(tmp_path / "history.jsonl", lambda **_: None, 1, Yardstick(1.0, 1.0, 1), steps=wanted)
    args = TrainingArguments(str(tmp_path), save_strategy="no", report_to="none", use_cpu=True)
    state, control = TrainerState(max_steps=steps), TrainerControl()
    kept.on_train_begin(args, state, control)
    logged = []
    for step in range(1, steps + 1):
        state.global_step, control.should_log = step, False
        for callback in (DefaultFlowCallback(), kept):
            callback.on_step_end(args, state, control)
        logged += [step] * control.should_log
    assert len(logged) == points
    assert logged[-1] == steps


@LIBRARIES_WARN
def test_a_resumed_training_has_the_curve_of_one_that_was_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With checkpoints between the points, whose sums no checkpoint holds."""
    where = place(tmp_path)
    values = {"logging_steps": 3, "save_steps": 4, "max_steps": 10}
    whole = train_here(where, "whole", **values)
    assert [point["step"] for point in whole.history if "loss" in point] == [3, 4, 6, 8, 9, 10]
    with signalled_at(4, monkeypatch), pytest.raises(StageError, match="after step 4"):
        train_here(where, "stopped", **values)
    resumed = train_here(where, "stopped", **values)
    assert resumed.losses == whole.losses
    assert resumed.stats["train_loss"] == whole.stats["train_loss"]
    every = train_here(where, "every", **{**values, "logging_steps": 1})
    assert whole.stats["train_loss"] == pytest.approx(sum(every.losses) / 10, abs=1e-6)
