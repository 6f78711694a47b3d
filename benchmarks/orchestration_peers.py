"""The same ten stages with Metaflow and with Prefect's own result cache; DVC's are shell commands.

python orchestration_peers.py metaflow run | prefect CHANGED
"""

from __future__ import annotations

import sys
from typing import Any

STAGES = 10
METAFLOW = """
from metaflow import FlowSpec, step

class Ten(FlowSpec):
    @step
    def start(self):
        self.text = "0"
        self.next(self.s1)
{steps}
    @step
    def end(self):
        self.text += "x"

if __name__ == "__main__":
    Ten()
"""
STEP = """
    @step
    def s{i}(self):
        self.text += "x"
        self.next(self.{after})
"""


def metaflow_source() -> str:
    """Return a Metaflow flow of ten steps."""
    last = STAGES - 2
    steps = (STEP.format(i=i, after=f"s{i + 1}" if i < last else "end") for i in range(1, last + 1))
    return METAFLOW.format(steps="".join(steps))


def prefect(changed: str) -> None:
    """Run ten tasks whose results Prefect caches by their inputs and source."""
    from prefect import flow, task
    from prefect.cache_policies import INPUTS, TASK_SOURCE

    cached: dict[str, Any] = {"cache_policy": INPUTS + TASK_SOURCE, "persist_result": True}

    @task(**cached)
    def begin(text: str) -> str:
        return text

    @task(**cached)
    def carry(text: str, number: int) -> str:
        return text + "x"

    @flow
    def ten(text: str) -> None:
        text = begin(text)
        for number in range(1, STAGES):
            text = carry(text, number)

    ten(changed)


if __name__ == "__main__":
    prefect(sys.argv[1])
