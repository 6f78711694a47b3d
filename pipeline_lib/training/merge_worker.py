"""The merging child process: fold the adapter in, in fp32, and measure what the cast costs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.kinds import brings_code
from pipeline_lib.launch import child_main
from pipeline_lib.training.loading import auto_class

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

PROBE_TOKENS = 64
TRAINED, COMBINED = "default", "combined"


def work(spec: dict[str, Any], tell: Callable[..., None]) -> None:
    """Write the merged model and its tokenizer, with the largest change of a logit by merge and cast."""
    import torch
    from transformers import AutoTokenizer

    scores = _gives_scores(spec)
    # The sum W + alpha/r B A is made in fp32: adding in bf16 rounds most of the update away.
    model = auto_class(scores=scores).from_pretrained(
        spec["base"],
        dtype=torch.float32,
        trust_remote_code=brings_code(spec["base"]),
        **({"num_labels": 1} if scores else {}),
    )
    stats: dict[str, Any] = {"parameters": model.num_parameters(), "dtype": spec["dtype"]}
    vocabulary = model.config.get_text_config().vocab_size
    probe = torch.arange(PROBE_TOKENS).remainder(vocabulary).unsqueeze(0)
    if spec["adapter"]:
        wrapped = _with_adapters(model, spec)
        apart = _outputs(wrapped, probe)
        model = wrapped.merge_and_unload(adapter_names=list(wrapped.active_adapters))
        stats |= _difference("merged", apart, _outputs(model, probe))
        if stats["merged_max_difference"] > 1e-2:
            raise DataError(
                f"merge: merged and unmerged model differ by {stats['merged_max_difference']:.3g} "
                "in log-probability; train the adapter again"
            )
    exact = _outputs(model.eval(), probe)
    model = model.to(getattr(torch, spec["dtype"]))
    stats |= _difference("cast", exact, _outputs(model, probe))
    tokenizer = AutoTokenizer.from_pretrained(
        spec["tokenizer"], trust_remote_code=brings_code(spec["tokenizer"])
    )
    if scores:
        model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(spec["out"])
    tokenizer.save_pretrained(spec["out"])
    for module in Path(spec["code"]).glob("*.py"):
        shutil.copyfile(module, Path(spec["out"]) / module.name)
    (Path(spec["out"]) / "README.md").unlink(missing_ok=True)
    (Path(spec["work"]) / "stats.json").write_text(json.dumps(stats), encoding="utf-8")


def _gives_scores(spec: dict[str, Any]) -> bool:
    """Return whether the model scores sequences: a reward model, as its adapter or its own config says."""
    if spec["adapter"]:
        adapter = json.loads((Path(spec["adapter"]) / "adapter_config.json").read_text(encoding="utf-8"))
        return bool(adapter.get("task_type") == "SEQ_CLS")
    config = json.loads((Path(spec["base"]) / "config.json").read_text(encoding="utf-8"))
    return any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def _with_adapters(model: Any, spec: dict[str, Any]) -> PeftModel:
    """Return the model under its adapter, or under the weighted combination of several."""
    import torch
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(model, spec["adapter"])
    if not spec["adapters"]:
        return wrapped.eval()
    names = [TRAINED]
    for i, other in enumerate(spec["adapters"]):
        names.append(f"other{i}")
        try:
            wrapped.load_adapter(other["path"], names[-1])
        except (RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"merge.adapters: {other['path']} does not fit this base model ({why}); name adapters that "
                "were trained on it"
            ) from error
    weights = [spec["weight"], *(other["weight"] for other in spec["adapters"])]
    # The factors are combined with each adapter's scale in them, and PEFT gives the combination the first
    # one's form of scale: alpha/r is 1 then, alpha/sqrt(r) would be too much by sqrt(r).
    wrapped.peft_config[TRAINED].use_rslora = False  # type: ignore[attr-defined]
    # DARE drops values at random: the same ones each time.
    torch.manual_seed(0)
    pruned = {} if spec["combination"] in ("linear", "cat") else {"density": spec["density"]}
    try:
        wrapped.add_weighted_adapter(names, weights, COMBINED, combination_type=spec["combination"], **pruned)
    except (ValueError, AttributeError, NotImplementedError) as error:
        raise ConfigError(
            f"merge.combination {spec['combination']}: PEFT refuses these adapters ({error})"
        ) from error
    wrapped.set_adapter(COMBINED)
    return wrapped.eval()


def _outputs(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of every next token, or the scores, of the probe."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits.float()
    return torch.log_softmax(logits, dim=-1) if logits.shape[-1] > 1 else logits


def _difference(name: str, one: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    largest = {f"{name}_max_difference": float((one - other).abs().max())}
    if one.shape[-1] == 1:
        return largest
    return {**largest, f"{name}_kl": float((one.exp() * (one - other)).sum(-1).mean())}


if __name__ == "__main__":
    child_main(work)
