"""Merge: one model of base and adapter, in the number format that it is served in.

Adapters of other trainings on the same base can be merged in with it, each with its weight.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Adapter, Model, Trained
from pipeline_lib.settings import file_digests


class OtherAdapter(StageConfig):
    """A LoRA adapter from another training on the same base."""

    path: str = Field(description="Directory of the adapter, such as an artifact of another run's train.")
    weight: float = Field(default=1.0, description="Its weight among the adapters.")


class MergeConfig(StageConfig):
    """How base and adapter become one."""

    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        default="bfloat16", description="Number format of the merged weights."
    )
    adapters: tuple[OtherAdapter, ...] = Field(
        default=(), description="Adapters that are combined with the trained one before merging."
    )
    weight: float = Field(default=1.0, description="Weight of the trained adapter among the adapters.")
    combination: Literal["linear", "cat", "ties", "dare_linear", "dare_ties", "magnitude_prune"] = Field(
        default="linear",
        description="How adapters combine, under PEFT's names: their updates added (cat), or their factors, "
        "as they are (linear) or pruned first (the others).",
    )
    density: float = Field(
        default=0.5, gt=0, le=1, description="Share of each adapter's values that pruning keeps."
    )


def outside(config: MergeConfig) -> dict[str, str]:
    """Return the digests of the other adapters; ConfigError where one is none."""
    found = {}
    for i, other in enumerate(config.adapters):
        directory = Path(other.path)
        files = [directory / "adapter_config.json", directory / "adapter_model.safetensors"]
        if missing := [file.name for file in files if not file.exists()]:
            raise ConfigError(
                f"merge.adapters: {directory} holds no adapter ({missing[0]} is not there); name the "
                "directory of a train artifact"
            )
        found[f"adapters.{i}"] = file_digests().of_all(files, directory)
    return found


@stage(produces=Model, version=3, outside=outside)
def merge(out: Output, config: MergeConfig, trained: Trained, base: Model) -> None:
    """A model that loads by itself: base and adapter in one (W + alpha/r B A), or trained weights, cast."""
    from pipeline_lib.launch import device, run_child

    adapts = isinstance(trained, Adapter)
    if config.adapters and not adapts:
        raise ConfigError("merge.adapters go with a trained adapter; this training changed every weight")
    if config.adapters:
        check_combination([trained.path, *(Path(other.path) for other in config.adapters)])
    spec = {
        **config.model_dump(mode="json"),
        "adapter": str(trained.path) if adapts else None,
        "base": str(base.path if adapts else trained.path),
        "code": str(base.path),
        "tokenizer": str(trained.path),
        "out": str(out.path),
        "work": str(out.work),
        "device": device(),
        "processes": 1,
    }
    run_child("pipeline_lib.training.merge_worker", spec, out.work, "merge")
    out.stats = json.loads((out.work / "stats.json").read_text(encoding="utf-8"))


def check_combination(adapters: list[Path]) -> None:
    """Raise ConfigError where PEFT cannot combine these adapters, or would leave a part of one out unsaid."""
    for directory in adapters:
        values = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
        what = None
        if values["peft_type"] != "LORA":
            what = f"is an adapter of the type {values['peft_type']}; only those of LoRA combine"
        elif values.get("use_dora"):
            what = "has DoRA's magnitudes, which do not combine; train it without use_dora"
        elif values.get("modules_to_save"):
            whole = ", ".join(values["modules_to_save"])
            what = f"has modules trained in full ({whole}), which do not combine; train it without them"
        if what:
            raise ConfigError(f"merge.adapters: {directory} {what}")
