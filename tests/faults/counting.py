"""A process that counts slowly and keeps a checkpoint."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pydantic import BaseModel

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Dataset
from tasks.wrap import as_task, flow


class CountConfig(StageConfig):
    """How far, how slowly, and where every beginning is written down."""

    name: str = "count"
    upto: int = 10
    seconds: float = 0.0
    size: int = 0
    ledger: str = ""


@stage(produces=Dataset, version=1)
def count(out: Output, config: CountConfig) -> None:
    """One line for each number; a try that was killed goes on where it was."""
    checkpoint = out.work / "counted"
    done = checkpoint.read_text().split() if checkpoint.exists() else []
    tell(config, f"{'resumed' if done else 'began'} {config.name} {len(done)} {os.getpid()}")
    for number in range(len(done), config.upto):
        time.sleep(config.seconds)
        with checkpoint.open("a") as file:
            file.write(f"{number}\n")
    (out.path / "kept.txt").write_text(checkpoint.read_text() if config.upto else "")
    with (out.path / "ballast.bin").open("wb") as file:
        for _ in range(config.size):
            file.write(bytes(1 << 20))
    tell(config, f"ended {config.name} {config.upto} {os.getpid()}")
    out.stats = {"read": config.upto, "kept": config.upto, "dropped": 0}


def tell(config: CountConfig, line: str) -> None:
    """Add a line to the ledger, in one write."""
    if config.ledger:
        with Path(config.ledger).open("a") as file:
            file.write(line + "\n")


class DoubleConfig(StageConfig):
    """No choice."""


@stage(produces=Dataset, version=1)
def double(out: Output, config: DoubleConfig, numbers: Dataset) -> None:
    """Every number twice."""
    read = numbers.file("kept.txt").read_text().split()
    (out.path / "kept.txt").write_text("\n".join(str(2 * int(number)) for number in read))
    out.stats = {"read": len(read), "kept": len(read), "dropped": 0}


class CountingConfig(BaseModel):
    """The process's config."""

    name: str = "counting"
    count: CountConfig = CountConfig()
    double: DoubleConfig = DoubleConfig()


count_task = as_task(count, retries=2, tags=("gpu",))
double_task = as_task(double, tags=("cpu",))


@flow
def process(config: CountingConfig) -> None:
    """Numbers, and twice the numbers."""
    double_task(config.double, count_task(config.count))
