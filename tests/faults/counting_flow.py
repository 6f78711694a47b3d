"""The flow by which a worker runs the counting process; no other module of the tests imports Prefect.

When Prefect is imported it sets logging up anew, and that closes the stream of absl's handler, which the
metrics' libraries bring: under pytest its own capture.
"""

from __future__ import annotations

from typing import Any

from prefect import flow as prefect_flow
from prefect.client.schemas.objects import State

from flows.call import Call, open_store
from flows.run import run_inside
from flows.serving import ended, stop_after_crashes
from flows.watch import Watch
from tests.faults.counting import CountingConfig, process


@prefect_flow(name="counting", persist_result=False)
def counting(config: CountingConfig) -> State[Any]:
    """Run the process as deployed flows do."""
    stop_after_crashes()
    return ended(run_inside(Call(process, config, open_store()), Watch()))
