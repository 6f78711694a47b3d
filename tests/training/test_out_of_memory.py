"""A training that runs out of memory goes on with half the micro-batch, by real children and a real error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.core import progress
from pipeline_lib.core.errors import StageError
from pipeline_lib.core.output import Output
from pipeline_lib.kinds import Model, Tokens
from pipeline_lib.training.train import TrainConfig, train
from tests.evaluation.tiny_model import tiny_model
from tests.training import tiny_training as tiny

CODE = Path(__file__).with_name("short_of_memory.py")
NEVER = 10**6
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


class Listener:
    """Keeps the lines that a person would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, what: str, total: float | None) -> Any:
        return progress._Silent()

    def mention(self, line: str) -> None:
        self.lines.append(line)


def short(root: Path, calls: int, room: int = 2) -> tiny.Place:
    """Return a place whose base model has room for so many sequences after so many passes."""
    made = tiny.Place(root)
    tiny_model(made.base)
    shutil.copy(CODE, made.base / "modeling_short.py")
    path = made.base / "config.json"
    own = {
        "AutoConfig": "modeling_short.ShortConfig",
        "AutoModelForCausalLM": "modeling_short.ShortForCausalLM",
    }
    config = json.loads(path.read_text()) | {
        "model_type": "short_of_memory",
        "architectures": ["ShortForCausalLM"],
        "auto_map": own,
        "room": room,
        "calls": calls,
    }
    path.write_text(json.dumps(config))
    tiny.sequences(made.tokens, made.base)
    return made


def staged(where: tiny.Place) -> tuple[Output, list[str]]:
    """Train by the stage, in child processes; return what it left and what it said."""
    out = Output("train", where.root / "out", where.root / "work")
    out.path.mkdir()
    config = TrainConfig.model_validate({**tiny.QUICK, "epochs": 2, "batch_size": 4, "batching": "random"})
    said = Listener()
    with progress.listening(said):
        train.function(out, config, Tokens(where.tokens, ""), Model(where.base, ""))
    return out, said.lines


def points(out: Output) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out.path / "logs" / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("calls", [0, 9], ids=["in the first minute", "after a checkpoint"])
def test_half_the_micro_batch_and_twice_the_passes_give_the_same_curve(tmp_path: Path, calls: int) -> None:
    roomy = staged(short(tmp_path / "roomy", NEVER))[0]
    tight, said = staged(short(tmp_path / "tight", calls))
    assert len(said) == 1
    assert "too little memory" in said[0]
    assert "half as many sequences" in said[0]
    assert json.loads((tight.work / "spec.json").read_text())["halvings"] == 1
    losses = {point["step"]: point["loss"] for point in points(tight) if "loss" in point}
    assert list(losses) == list(range(1, 13))
    expected = [point["loss"] for point in points(roomy) if "loss" in point]
    assert list(losses.values()) == pytest.approx(expected, abs=1e-4)


def test_a_single_sequence_that_is_too_much_ends_the_run_with_the_devices_word(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="the device has too little memory"):
        staged(short(tmp_path, 0, room=0))
