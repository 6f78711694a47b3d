"""The order of the data follows from seed and epoch alone; a look at the validation split leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline_lib.core.errors import StageError
from pipeline_lib.training.journal import Journal
from tests.training.tiny_training import LIBRARIES_WARN, Place, pairs, place, train_here

pytestmark = LIBRARIES_WARN

# Six steps an epoch; dropout draws from the common random state.
THREE_EPOCHS = {"epochs": 3, "eval_steps": 100, "lora": {"rank": 4, "dropout": 0.1}}


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("order"))


@pytest.mark.parametrize("batching", ["group_by_length", "random"])
def test_looking_at_validation_and_resuming_in_a_later_epoch_change_no_step(
    where: Place, batching: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = {**THREE_EPOCHS, "batching": batching}
    whole = train_here(where, f"{batching}-whole", **values)
    often = train_here(where, f"{batching}-often", **{**values, "eval_steps": 1})
    assert often.losses == whole.losses
    assert len([point for point in often.history if "eval_loss" in point]) == 18

    with signalled_at(9, monkeypatch), pytest.raises(StageError, match="after step 9"):
        train_here(where, f"{batching}-stopped", **values)
    assert train_here(where, f"{batching}-stopped", **values).losses == whole.losses


def test_prompts_come_in_the_order_of_their_epoch_where_it_is_resumed(
    where: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl.trainer.utils import RepeatSampler

    tokens, _ = pairs(where.root / "prompts", where.base, "prompts", count=8)
    rl = {"num_generations": 2, "max_completion_length": 4, "rewards": [{"function": "length", "words": 3}]}
    # Two prompts a step, four steps an epoch.
    values: dict[str, Any] = {"objective": "grpo", "tokens": tokens, "rl": rl, "eval_steps": 100}
    orders: list[list[int]] = []
    drawn = RepeatSampler.__iter__

    def noted(self: RepeatSampler) -> Iterator[int]:
        orders.append(list(drawn(self)))
        return iter(orders[-1])

    monkeypatch.setattr(RepeatSampler, "__iter__", noted)
    train_here(where, "prompts-whole", **values)
    first, second = (order for order in orders if len(order) == 16)
    orders.clear()
    with signalled_at(5, monkeypatch), pytest.raises(StageError, match="after step 5"):
        train_here(where, "prompts-stopped", **values)
    orders.clear()
    train_here(where, "prompts-stopped", **values)
    assert [order for order in orders if len(order) == 16] == [second]
    assert first != second


@contextmanager
def signalled_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a signal to stop come at a step."""
    after = Journal.on_step_end

    def signalled(self: Journal, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.stopping = state.global_step == step
        after(self, args, state, control, **rest)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "on_step_end", signalled)
        yield
