"""The merging child process: fold the adapter in, in fp32, and measure what the cast costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import DataError
from pipeline_lib.launch import child_main

if TYPE_CHECKING:
    import torch

PROBE_TOKENS = 64


def work(spec: dict[str, Any], tell: Callable[..., None]) -> None:
    """Write the merged model and its tokenizer, with the largest change of a logit by merge and cast."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The sum W + alpha/r B A is made in fp32: adding in bf16 rounds most of the update away.
    model = AutoModelForCausalLM.from_pretrained(spec["base"], dtype=torch.float32)
    stats: dict[str, Any] = {"parameters": model.num_parameters(), "dtype": spec["dtype"]}
    probe = torch.arange(PROBE_TOKENS).remainder(model.config.vocab_size).unsqueeze(0)
    if spec["adapter"]:
        from peft import PeftModel

        wrapped = PeftModel.from_pretrained(model, spec["adapter"]).eval()
        apart = _log_probabilities(wrapped, probe)
        model = wrapped.merge_and_unload()
        stats |= _difference("merged", apart, _log_probabilities(model, probe))
        if stats["merged_max_difference"] > 1e-2:
            raise DataError(
                f"merge: merged and unmerged model differ by {stats['merged_max_difference']:.3g} "
                "in log-probability; train the adapter again"
            )
    exact = _log_probabilities(model, probe)
    model = model.to(getattr(torch, spec["dtype"]))
    stats |= _difference("cast", exact, _log_probabilities(model, probe))
    model.save_pretrained(spec["out"])
    AutoTokenizer.from_pretrained(spec["tokenizer"]).save_pretrained(spec["out"])
    (Path(spec["out"]) / "README.md").unlink(missing_ok=True)
    (Path(spec["work"]) / "stats.json").write_text(json.dumps(stats), encoding="utf-8")


def _log_probabilities(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.no_grad():
        return torch.log_softmax(model(input_ids=ids, use_cache=False).logits.float(), dim=-1)


def _difference(name: str, one: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    divergence = (one.exp() * (one - other)).sum(-1).mean()
    return {f"{name}_max_difference": float((one - other).abs().max()), f"{name}_kl": float(divergence)}


if __name__ == "__main__":
    child_main(work)
