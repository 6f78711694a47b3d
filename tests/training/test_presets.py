"""Every preset in conf/ tokenizes and trains as it stands, but for base model, data and length."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib import records
from pipeline_lib.config import PipelineConfig, load
from pipeline_lib.core.output import Output
from pipeline_lib.kinds import Dataset, Model
from pipeline_lib.training.initialize import initialize
from pipeline_lib.training.tokenize import tokenize
from tests.curation.conftest import Row, chat, pair, text
from tests.evaluation.tiny_model import tiny_model
from tests.training.test_own_code import with_own_code
from tests.training.tiny_training import LIBRARIES_WARN

CONF = Path(__file__).resolve().parents[2] / "conf"
PRESETS = sorted(path.stem for path in CONF.glob("*.yaml"))
STEPS = 2

pytestmark = [pytest.mark.slow, LIBRARIES_WARN]


def pairs(i: int) -> Row:
    return pair(f"say {i % 7}", f"yes {i % 7}", f"no {i % 5}", str(i))


ROWS: dict[str, Callable[[int], Row]] = {
    "supervised": lambda i: chat(f"say {i % 7}", f"yes {i % 7}", name=str(i)),
    "language_modelling": lambda i: {
        **text(f"The number {i} is {'even' if i % 2 == 0 else 'odd'}, and {i} {'x' * (i % 7)}.", str(i)),
        "metadata": '{"signature": "f(x)"}',
    },
    "preference": pairs,
    "feedback": pairs,
    "prompts": lambda i: chat(f"what is {i} and 1?", f"#### {i + 1}", name=str(i)),
}


def base_of(config: PipelineConfig, root: Path, dataset: Dataset) -> Model:
    """Return a small model in place of the preset's: random, with code of its own, or made as it says."""
    place = root / "base"
    if config.initialize is not None:
        place.mkdir()
        small = config.initialize.model_copy(update={"vocab_size": 320, "hidden_size": 32, "layers": 2})
        initialize.function(Output("initialize", place, place), small, dataset)
    elif config.base_model and config.base_model.trust_remote_code:
        with_own_code(place)
    else:
        tiny_model(place, positions=512)
    return Model(place, "")


def tokenized(config: PipelineConfig, root: Path) -> tuple[Model, Path]:
    """Return the base and the tokens that the preset's tokenize stage makes of rows of the form it wants."""
    data, tokens = root / "data", root / "tokens"
    data.mkdir(), tokens.mkdir()
    with records.DatasetWriter(data, ("train", "validation")) as writer:
        for part, number in (("train", 64), ("validation", 4)):
            writer.write(part, records.from_rows([ROWS[config.tokenize.objective](i) for i in range(number)]))
    dataset = Dataset(data, "")
    base = base_of(config, root, dataset)
    tokenize.function(Output("tokenize", tokens, tokens), config.tokenize, dataset, base)
    return base, tokens


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_tokenizes_and_trains(preset: str, tmp_path: Path) -> None:
    config = load(CONF / f"{preset}.yaml", [f"train.max_steps={STEPS}", "train.logging_steps=1"])
    trained = run(config, tmp_path)
    assert trained["steps"] == STEPS
    assert trained["objective"] == config.train.objective
    assert trained["trainable_parameters"] <= trained["parameters"]
    assert trained["eval_loss"] is not None


def test_the_preset_for_grpo_trains_leave_one_out_by_one_setting(tmp_path: Path) -> None:
    config = load(CONF / "grpo.yaml", [f"train.max_steps={STEPS}", "train.objective=rloo"])
    assert run(config, tmp_path)["objective"] == "rloo"


def run(config: PipelineConfig, root: Path) -> dict[str, Any]:
    """Return the statistics of the preset's training, in this process."""
    from pipeline_lib.training.worker import work

    base, tokens = tokenized(config, root)
    values = config.train.model_dump(mode="json")
    # Random weights do not stop by themselves: 256 tokens an answer would take minutes and show no more.
    values["rl"]["max_completion_length"] = 8
    out, scratch = root / "out", root / "work"
    out.mkdir(), scratch.mkdir()
    spec = {"config": values, "base": str(base.path), "tokens": str(tokens), "out": str(out)}
    work({**spec, "work": str(scratch), "device": "cpu", "parallel": "ddp"}, lambda **event: None)
    return dict(json.loads((scratch / "stats.json").read_text()))
