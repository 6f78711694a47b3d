"""Ten stages that do next to nothing, run as `finetune run` runs a pipeline: one process, start to end.

    python -m benchmarks.orchestration_ours CHANGED [UNTIL]

With CHANGED the first stage's config differs from the last time, and so does every artifact after it. With
UNTIL the run ends with that stage. The last line says how many stages were built.
"""

from __future__ import annotations

import json
import sys

from pydantic import BaseModel

from flows.call import Call, open_store
from flows.run import run
from flows.screen import Screen
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.plan import Selection
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Dataset
from tasks.wrap import as_task, flow

STAGES = 10


class FirstConfig(StageConfig):
    """What the first stage writes."""

    text: str = "0"


class NextConfig(StageConfig):
    """No choice."""


class TenConfig(BaseModel):
    """The process's config."""

    name: str = "ten"
    first: FirstConfig = FirstConfig()
    after: NextConfig = NextConfig()


@stage(produces=Dataset, version=1)
def begin(out: Output, config: FirstConfig) -> None:
    """One short text."""
    (out.path / "kept.txt").write_text(config.text)


@stage(produces=Dataset, version=1)
def carry(out: Output, config: NextConfig, text: Dataset) -> None:
    """The text, one letter longer."""
    (out.path / "kept.txt").write_text(text.file("kept.txt").read_text() + "x")


first = as_task(begin, name="stage_0")
others = [as_task(carry, name=f"stage_{i}") for i in range(1, STAGES)]


@flow
def ten(config: TenConfig) -> None:
    """Ten stages in a row."""
    text = first(config.first)
    for one in others:
        text = one(config.after, text)


def main() -> None:
    """Run the process once."""
    config = TenConfig(first=FirstConfig(text=sys.argv[1]))
    until = sys.argv[2] if len(sys.argv) > 2 else None
    outcome = run(Call(ten, config, open_store(), Selection(until=until)), Screen(lines=False))
    print(json.dumps({"built": sum(step.status == "built" for step in outcome.steps)}))


if __name__ == "__main__":
    main()
