"""What cannot be trained is told before a child process, and so a device, is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline_lib import launch
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.kinds import Tokens
from pipeline_lib.training.gates import check_training
from pipeline_lib.training.train import TrainConfig


def prompts(directory: Path, longest: int) -> Tokens:
    """Write prompts up to so many tokens long."""
    rows = [{"prompt_ids": list(range(length))} for length in (3, longest)]
    pq.write_table(pa.Table.from_pylist(rows), directory / "train-00000.parquet")
    return Tokens(directory, "")


@pytest.mark.parametrize(
    ("values", "device", "told"),
    [
        ({"activation_offloading": True}, "cpu", "is for a GPU; take train.activation_checkpointing"),
        ({"activation_offloading": True}, "cuda", "a model that brings its own code"),
        ({"parallel": "fsdp2"}, "cpu", "shares a model among GPUs; take ddp"),
        ({"parallel": "zero3"}, "cuda", "pip install deepspeed"),
        (
            {"objective": "grpo", "rl": {"max_completion_length": 65}},
            "cuda",
            r"129 tokens is over the base model's 128 positions; lower train\.rl\.max_completion_length",
        ),
    ],
)
def test_what_cannot_be_trained_here_is_told_with_the_remedy(
    values: dict[str, Any], device: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 128}))
    (tmp_path / "modeling_own.py").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=told):
        check_training(TrainConfig.model_validate(values), prompts(tmp_path, 64), tmp_path, device)


def test_offloading_is_told_where_trl_has_none() -> None:
    with pytest.raises(ValidationError, match="no activation_offloading for grpo"):
        TrainConfig(objective="grpo", activation_offloading=True)


@pytest.mark.parametrize("parallel", launch.PARALLEL)
def test_accelerate_understands_each_way_of_sharing_a_model(
    parallel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its launcher would put into the environment of two GPUs' processes."""
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    monkeypatch.setattr("pipeline_lib.launch.device", lambda: "cuda")
    command = launch._command(parallel, 2)
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    args = launch_command_parser().parse_args([*command[3:], "script.py"])
    stage = {"zero2": 2, "zero3": 3}.get(parallel)
    assert (args.use_deepspeed, args.zero_stage) == (stage is not None, stage)
    if stage is None:
        environment = prepare_multi_gpu_env(args)
        assert environment.get("FSDP_VERSION") == ("2" if parallel == "fsdp2" else None)
        assert environment.get("ACCELERATE_USE_FSDP") == ("true" if parallel == "fsdp2" else None)
