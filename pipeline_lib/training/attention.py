"""Attention kernels: which one a training takes, and whether this machine has it.

Packed rows must not see their neighbours. SDPA and eager get a block-diagonal mask and FlexAttention a block
mask, which Transformers makes of the position ids. FlashAttention has no mask: it is told where each sequence
ends, and takes one flat row alone (``takes_flat_rows``). So does attention by sequence, for a CPU
(`pipeline_lib.flat_rows`).
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.flat_rows import BY_SEQUENCE, keeps_apart
from pipeline_lib.training.methods import VIRTUAL_TOKENS

if TYPE_CHECKING:
    from pipeline_lib.training.train import TrainConfig

PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
"""What each varlen kernel is imported from."""


def check_attention(config: TrainConfig, device: str, *, own_code: bool) -> None:
    """Raise ConfigError where the wanted kernel cannot train here; nothing is loaded for it."""
    wanted = config.attn_implementation
    if wanted in ("auto", "sdpa", "eager") and not own_code:
        return
    if own_code and wanted != "auto":
        raise _refused(wanted, "is not for a model that brings its own code", "auto")
    if device == "cpu" and wanted != "auto":
        raise _refused(wanted, "trains on a GPU alone", "sdpa")
    if (package := PACKAGES.get(wanted)) is None:
        return
    if importlib.util.find_spec(package) is None:
        raise _refused(wanted, f"needs the package {package}, which is not installed", "sdpa")
    if config.precision == "fp32":
        raise _refused(wanted, "has no fp32; set train.precision=bf16", "sdpa")


def _refused(wanted: str, why: str, instead: str) -> ConfigError:
    return ConfigError(f"train.attn_implementation {wanted} {why}; or take {instead}")


def chosen(spec: dict[str, Any]) -> str | None:
    """Return the kernel that the spec's training runs with; None for SDPA where the architecture has it."""
    config = spec["config"]
    wanted: str = config["attn_implementation"]
    if wanted != "auto":
        return wanted
    if spec["device"] == "cpu":
        return BY_SEQUENCE if _goes_by_sequence(config, Path(spec["base"])) else None
    varlen = config["batching"] == "packed" and config["precision"] != "fp32"
    there = importlib.util.find_spec(PACKAGES["flash_attention_2"]) is not None
    return "flash_attention_2" if varlen and there else None


def takes_flat_rows(kernel: str | None) -> bool:
    """Return whether the kernel keeps packed sequences apart only where they stand in a single row."""
    return kernel == BY_SEQUENCE or kernel in PACKAGES


def _goes_by_sequence(config: dict[str, Any], base: Path) -> bool:
    if config["objective"] != "sft" or config["method"] in VIRTUAL_TOKENS:
        return False
    return keeps_apart(json.loads((base / "config.json").read_text(encoding="utf-8")))
