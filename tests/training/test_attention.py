"""An attention kernel that cannot train here is refused in one line, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.flat_rows import BY_SEQUENCE
from pipeline_lib.training.attention import check_attention, chosen
from pipeline_lib.training.train import TrainConfig


def config(**values: Any) -> TrainConfig:
    return TrainConfig.model_validate(values)


@pytest.mark.parametrize(
    ("values", "device", "own_code", "told"),
    [
        (
            {"attn_implementation": "flex_attention"},
            "cpu",
            False,
            "trains on a GPU alone; or take sdpa",
        ),
        ({"attn_implementation": "flash_attention_2"}, "cpu", False, "trains on a GPU alone"),
        ({"attn_implementation": "flash_attention_3"}, "cuda", False, "package flash_attn_interface"),
        ({"attn_implementation": "sdpa"}, "cuda", True, "brings its own code; or take auto"),
    ],
)
def test_a_kernel_that_is_not_there_is_named_with_the_way_out(
    values: dict[str, Any], device: str, own_code: bool, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        check_attention(config(**values), device, own_code=own_code)


def test_a_varlen_kernel_wants_half_precision_and_is_taken_for_packed_rows_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    flash = config(attn_implementation="flash_attention_2", precision="fp32")
    with pytest.raises(ConfigError, match=r"no fp32; set train\.precision=bf16"):
        check_attention(flash, "cuda", own_code=False)
    packed = {"batching": "packed", "precision": "bf16"}
    for values, device, expected in (
        (packed, "cuda", "flash_attention_2"),
        (packed, "cpu", BY_SEQUENCE),
        ({**packed, "attn_implementation": "sdpa"}, "cpu", "sdpa"),
        ({**packed, "precision": "fp32"}, "cuda", None),
        ({"precision": "bf16"}, "cuda", None),
    ):
        spec = {"config": config(**values).model_dump(mode="json"), "device": device, "base": str(tmp_path)}
        assert chosen(spec) == expected


@pytest.mark.parametrize(
    ("model", "kernel"),
    [
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, BY_SEQUENCE),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True}, None),
        ({"model_type": "mistral", "sliding_window": 4096}, None),
        ({"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]}, None),
        ({"model_type": "mamba2"}, None),
    ],
)
def test_a_cpu_takes_sequence_by_sequence_where_tokens_mix_by_whole_attention_alone(
    model: dict[str, Any], kernel: str | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(model))
    spec = {"device": "cpu", "base": str(tmp_path)}
    assert chosen({**spec, "config": config().model_dump(mode="json")}) == kernel
    for values in ({"method": "prefix_tuning"}, {"objective": "dpo"}):
        assert chosen({**spec, "config": config(**values).model_dump(mode="json")}) is None


def test_what_every_machine_has_passes() -> None:
    for name in ("auto", "sdpa", "eager"):
        check_attention(config(attn_implementation=name), "cpu", own_code=False)
    check_attention(config(), "cpu", own_code=True)
