"""Every preset in conf/ runs by command from its sources to its end, on small data and the bundled model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evaluation_loops import pairs

ROOT = Path(__file__).resolve().parents[2]
COUNT = 120
pytestmark = pytest.mark.slow

Rows = Iterator[dict[str, Any]]


def texts() -> list[tuple[str, str]]:
    """Return questions about the standard library with the docstrings that answer them."""
    return [(asked, text) for asked, text in pairs(1000) if 60 < len(text) < 400][: 2 * COUNT]


def answered() -> Rows:
    yield from ({"instruction": asked, "output": text} for asked, text in texts()[:COUNT])


def preferred() -> Rows:
    for (asked, text), (_, other) in zip(texts()[:COUNT], texts()[COUNT:], strict=True):
        yield {"prompt": asked, "chosen": text, "rejected": other}


def labelled() -> Rows:
    for i, (asked, text) in enumerate(texts()[:COUNT]):
        yield {"prompt": asked, "completion": text, "label": i % 2 == 0}


def reckoned() -> Rows:
    for i, (asked, _) in enumerate(texts()[:COUNT]):
        yield {"question": f"{asked} And what is {i} and {i + 3}?", "answer": f"Together:\n#### {2 * i + 3}"}


QUICK = ["base_model=bundled/pydocs-5m", "tokenize.max_length=192", "split.minimum=1"]
MEASURED = ["evaluate.max_new_tokens=4", "evaluate.precision=fp32", "tokenize.max_length=192"]
RL = [*QUICK, *MEASURED, "train.rl.max_completion_length=4"]
PRESETS: dict[str, tuple[Any, list[str]]] = {
    "sft-lora": (answered, [*QUICK, *MEASURED]),
    "sft-full": (answered, [*QUICK, *MEASURED]),
    "sft-qlora": (answered, [*QUICK, *MEASURED]),
    "dpo": (preferred, [*QUICK, *MEASURED]),
    "kto": (labelled, [*QUICK, *MEASURED]),
    "reward": (preferred, QUICK),
    "grpo": (reckoned, RL),
    "rloo": (reckoned, [*RL, "train.objective=rloo"]),
    "wedlm": (answered, ["tokenize.max_length=192"]),
    "pretrain": (None, ["ingest.sources=[{name: pydocs, limit: 200}]", "initialize.vocab_size=1024"]),
}
CONFIGS = {"rloo": "grpo"}


def with_own_code(place: Path) -> Path:
    """Write the bundled model with modelling code of its own beside it."""
    shutil.copytree(ROOT / "pipeline_lib" / "bundled" / "pydocs-5m", place)
    shutil.copy(ROOT / "tests" / "training" / "wedlm_like.py", place / "modeling_wedlm.py")
    path = place / "config.json"
    classes = {"AutoConfig": "WeDLMConfig", "AutoModelForCausalLM": "WeDLMForCausalLM"}
    config = json.loads(path.read_text()) | {
        "model_type": "wedlm",
        "architectures": ["WeDLMForCausalLM"],
        "auto_map": {auto: f"modeling_wedlm.{name}" for auto, name in classes.items()},
        "mask_token_id": 7,
    }
    path.write_text(json.dumps(config))
    return place


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_runs_by_command_to_its_end(preset: str, tmp_path: Path) -> None:
    rows, values = PRESETS[preset]
    values = [*values, "train.max_steps=2", "train.logging_steps=1", "train.precision=fp32"]
    if rows:
        data = tmp_path / "data.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
        columns = ", columns: {instruction: question, output: answer}" if rows is reckoned else ""
        values.append(f"ingest.sources=[{{path: {data}{columns}}}]")
    if preset == "wedlm":
        values.append(f"base_model.source={with_own_code(tmp_path / 'base')}")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "flows", "run", f"conf/{CONFIGS.get(preset, preset)}.yaml", "--json"),
            *(word for value in values for word in ("--set", value)),
        ],
        cwd=ROOT,
        env={**os.environ, "FINETUNE_WORKERS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    # Two steps may leave a gate closed, which is an answer; anything else is none.
    assert done.returncode == 0 or "gate closed" in done.stderr, done.stderr[-2000:]
    stages = json.loads(done.stdout)["stages"]
    assert stages["train"]["stats"]["steps"] == 2
    assert list(stages)[-1] == ("merge" if preset in ("reward", "wedlm", "pretrain") else "register")
    # The curve is that of single tokens or answers, however many passes a step has.
    if stages["train"]["stats"]["objective"] == "sft":
        assert stages["train"]["stats"]["train_loss"] < 20
    if "register" in stages:
        assert logged_curve(stages) == [1, 2]


def logged_curve(stages: dict[str, Any]) -> list[int]:
    """Return the steps of the loss in the MLflow run behind the registered version."""
    from pipeline_lib.publishing.connection import connected

    with connected() as client:
        name, version = (stages["register"]["stats"][key] for key in ("name", "version"))
        run = client.get_model_version(name, str(version)).run_id
        return [point.step for point in client.get_metric_history(run, "train.loss")]
