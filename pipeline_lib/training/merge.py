"""Merge: one model of base and adapter, in the number format that it is served in."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Adapter, Model, Trained


class MergeConfig(StageConfig):
    """How base and adapter become one."""

    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        default="bfloat16", description="Number format of the merged weights."
    )


@stage(produces=Model, version=1)
def merge(out: Output, config: MergeConfig, trained: Trained, base: Model) -> None:
    """A model that loads by itself: base and adapter in one (W + alpha/r B A), or trained weights, cast."""
    from pipeline_lib.launch import device, run_child

    spec = {
        "dtype": config.dtype,
        "adapter": str(trained.path) if isinstance(trained, Adapter) else None,
        "base": str(base.path if isinstance(trained, Adapter) else trained.path),
        "tokenizer": str(trained.path),
        "out": str(out.path),
        "work": str(out.work),
        "device": device(),
    }
    run_child("pipeline_lib.training.merge_worker", spec, out.work, "merge")
    out.stats = json.loads((out.work / "stats.json").read_text(encoding="utf-8"))
