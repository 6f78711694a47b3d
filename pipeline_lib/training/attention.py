"""Attention kernels: which one a training takes, and whether this machine has it.

Packed rows must not see their neighbours. SDPA and eager get a block-diagonal mask and FlexAttention a block
mask, which Transformers makes of the position ids. FlashAttention has no mask: it is told where each sequence
ends, and takes one flat row alone (``takes_flat_rows``). So does ``by_sequence``, SDPA on each sequence by
itself, for a CPU: it has no varlen kernel, and pays for every padded place and every masked one.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import ConfigError
from pipeline_lib.training.methods import VIRTUAL_TOKENS

if TYPE_CHECKING:
    import torch

    from pipeline_lib.training.train import TrainConfig

PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
"""What each varlen kernel is imported from."""
BY_SEQUENCE = "by_sequence"
BY_ATTENTION_ALONE = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "olmo2", "smollm3", "granite")
"""Model types in which a token learns of others by attention alone: a flat row keeps sequences apart."""


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


def chosen(spec: dict[str, Any]) -> str:
    """Return the kernel that the spec's training runs with."""
    config = spec["config"]
    wanted: str = config["attn_implementation"]
    if wanted != "auto":
        return wanted
    if spec["device"] == "cpu":
        return BY_SEQUENCE if _goes_by_sequence(config, Path(spec["base"])) else "sdpa"
    varlen = config["batching"] == "packed" and config["precision"] != "fp32"
    there = importlib.util.find_spec(PACKAGES["flash_attention_2"]) is not None
    return "flash_attention_2" if varlen and there else "sdpa"


def takes_flat_rows(kernel: str) -> bool:
    """Return whether the kernel keeps packed sequences apart only where they stand in a single row."""
    return kernel == BY_SEQUENCE or kernel in PACKAGES


def _goes_by_sequence(config: dict[str, Any], base: Path) -> bool:
    if config["objective"] != "sft" or config["method"] in VIRTUAL_TOKENS:
        return False
    model = json.loads((base / "config.json").read_text(encoding="utf-8"))
    # Qwen names a window that it does not use.
    windowed = model.get("sliding_window") and model.get("use_sliding_window", True)
    whole = set(model.get("layer_types") or ()) <= {"full_attention"}
    return model.get("model_type") in BY_ATTENTION_ALONE and not windowed and whole


def by_sequence(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return causal attention [1, tokens, heads, size] of a flat row whose sequences do not see each other.

    ``query``, ``key`` and ``value`` are [1, heads, tokens, size]; ``cu_seq_lens_q`` says where sequences
    begin and where the last ends. Without it every row is one sequence.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, None, **options)
    lengths = cu_seq_lens_q.diff().tolist()
    states = (torch.split(part, lengths, dim=2) for part in (query, key, value))
    rows = [
        sdpa_attention_forward(module, q, k, v, None, **options)[0] for q, k, v in zip(*states, strict=True)
    ]
    return torch.cat(rows, dim=1), None


def register(kernel: str) -> None:
    """Make the kernel known to Transformers by its name, where it is ours."""
    from transformers import AttentionInterface

    if kernel == BY_SEQUENCE:
        AttentionInterface.register(BY_SEQUENCE, by_sequence)
