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
        description="How adapters combine, under PEFT's names: added, stacked, or pruned first (TIES, DARE).",
    )
    density: float = Field(
        default=0.5, gt=0, le=1, description="Share of each adapter's values that pruning keeps."
    )


def outside(config: MergeConfig) -> dict[str, str]:
    """Return the digests of the other adapters; ConfigError where one is none."""
    found = {}
    for i, other in enumerate(config.adapters):
        directory = Path(other.path)
        if not (directory / "adapter_config.json").exists():
            raise ConfigError(
                f"merge.adapters: {directory} holds no adapter; name the directory of a train artifact"
            )
        files = [directory / "adapter_config.json", directory / "adapter_model.safetensors"]
        found[f"adapters.{i}"] = file_digests().of_all(files, directory)
    return found


@stage(produces=Model, version=2, outside=outside)
def merge(out: Output, config: MergeConfig, trained: Trained, base: Model) -> None:
    """A model that loads by itself: base and adapter in one (W + alpha/r B A), or trained weights, cast."""
    from pipeline_lib.launch import device, run_child

    adapts = isinstance(trained, Adapter)
    if config.adapters and not adapts:
        raise ConfigError("merge.adapters go with a trained adapter; this training changed every weight")
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
