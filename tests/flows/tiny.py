"""A process of three small stages, and a runner that builds without Prefect."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from flows.call import Call
from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import DataError, ServiceError
from pipeline_lib.core.output import Output
from pipeline_lib.core.plan import Done, Selection, Use, running
from pipeline_lib.core.stage import Recipe, stage
from pipeline_lib.core.store import Store
from pipeline_lib.kinds import Dataset, Verdict
from tasks.wrap import as_task, flow


class GatherConfig(StageConfig):
    upto: int = 6
    source: str = "here"
    fail: bool = False


def where_from(config: Any) -> dict[str, str]:
    if config.source == "nowhere":
        raise DataError("nowhere: no such file; check gather.source")
    if config.source == "hub":
        raise ServiceError("hub: does not answer; try again")
    return {"source": str(config.source)}


@stage(produces=Dataset, version=1, outside=where_from)
def gather(out: Output, config: GatherConfig) -> None:
    """Numbers from nothing."""
    if config.fail:
        raise ValueError("the numbers have run out")
    (out.path / "kept.txt").write_text("\n".join(map(str, range(config.upto))))
    out.stats = {"read": config.upto, "kept": config.upto, "dropped": 0}


class HalveConfig(StageConfig):
    keep: str = "even"
    note: str = ""
    """Changes the fingerprint and nothing else."""


@stage(produces=Dataset, version=1)
def halve(out: Output, config: HalveConfig, numbers: Dataset) -> None:
    """Every other number."""
    read = [int(line) for line in (numbers.path / "kept.txt").read_text().split()]
    kept = [number for number in read if (number % 2 == 0) == (config.keep == "even")]
    (out.path / "kept.txt").write_text("\n".join(map(str, kept)))
    out.stats = {"read": len(read), "kept": len(kept), "dropped": len(read) - len(kept)}


class JudgeConfig(StageConfig):
    least: int = 1


@stage(produces=Verdict, version=1)
def judge(out: Output, config: JudgeConfig, numbers: Dataset) -> None:
    """Open where enough is left."""
    left = numbers.manifest.stats["kept"]
    rule = {"passed": left >= config.least, "reason": f"{left} numbers left, {config.least} needed"}
    (out.path / "verdict.json").write_text(json.dumps({"open": rule["passed"], "rules": [rule]}))
    out.stats = {"open": rule["passed"]}


class TinyConfig(BaseModel):
    name: str = "tiny"
    gather: GatherConfig = GatherConfig()
    halve: HalveConfig = HalveConfig()
    judge: JudgeConfig = Field(default=JudgeConfig())


A = TypeVar("A", bound=Artifact)
gather_task, halve_task, judge_task = as_task(gather), as_task(halve), as_task(judge)


@flow
def tiny(config: TinyConfig) -> None:
    """Numbers, half of them, a verdict."""
    judge_task(config.judge, halve_task(config.halve, gather_task(config.gather)))


@dataclass
class Plain:
    """Builds every stage where it stands."""

    store: Store
    until: str | None = None
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    def step(self, use: Use, recipe: Recipe[A]) -> A:
        built = self.store.materialize(recipe).artifact
        self.artifacts[use.name] = built
        if use.name == self.until:
            raise Done
        return built


def build(store: Store, process: Callable[[], object], until: str | None = None) -> dict[str, Artifact]:
    runner = Plain(store, until)
    with running(runner), contextlib.suppress(Done):
        process()
    return runner.artifacts


def call(store: Store, config: TinyConfig | None = None, **chosen: Any) -> Call:
    return Call(tiny, config or TinyConfig(), store, Selection(**chosen))
