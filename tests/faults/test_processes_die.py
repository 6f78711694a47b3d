"""Processes die: nothing is lost, no artifact is partial, Prefect tells the truth, the next try completes."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from tests.faults.world import World, kill_tree
from tests.services.api import FINAL
from tests.services.servers import wait_for

pytestmark = [pytest.mark.services, pytest.mark.slow]
TRUE_WITHIN = 120
"""Seconds in which Prefect must show what is so."""
AGAIN_WITHIN = 240


def flow_process(world: World, name: str) -> int:
    """Return the process that counts."""
    return int(world.ledger(name)[-1].split()[-1])


def test_a_worker_killed_in_the_middle_is_crashed_in_two_minutes_and_another_goes_on(broken: World) -> None:
    config = broken.config("worker-killed", upto=40, seconds=0.5)
    worker = broken.start_worker()
    run = broken.begin(config)
    broken.counted(config, 5)
    kill_tree(worker)
    wait_for(lambda: "Crashed" in broken.states(run), TRUE_WITHIN, "the dead run to be shown as crashed")
    broken.start_worker()
    assert broken.api.becomes(run, "COMPLETED", seconds=AGAIN_WITHIN)["state_name"] == "Completed"
    lines = broken.ledger("worker-killed")
    assert [line.split()[0] for line in lines] == ["began", "resumed", "ended"]
    assert int(lines[1].split()[2]) >= 5, "the next try goes on from the checkpoint"
    broken.require_whole(config)


def test_a_flow_process_killed_is_crashed_at_once_and_starts_again_by_itself(broken: World) -> None:
    config = broken.config("flow-killed", upto=30, seconds=0.5)
    broken.start_worker()
    run = broken.begin(config)
    wait_for(lambda: broken.ledger("flow-killed"), 120, "the count to begin")
    broken.counted(config, 3)
    os.kill(flow_process(broken, "flow-killed"), signal.SIGKILL)
    wait_for(lambda: "Crashed" in broken.states(run), TRUE_WITHIN, "the crash to be shown")
    broken.api.becomes(run, "COMPLETED", seconds=AGAIN_WITHIN)
    assert [line.split()[0] for line in broken.ledger("flow-killed")] == ["began", "resumed", "ended"]
    broken.require_whole(config)


def test_a_run_that_always_dies_gives_up(broken: World) -> None:
    config = broken.config("always-dies", upto=1000, seconds=0.5)
    broken.start_worker()
    run = broken.begin(config)
    for tries in range(1, 4):
        wait_for(lambda tries=tries: len(broken.ledger("always-dies")) >= tries, AGAIN_WITHIN, f"try {tries}")
        os.kill(flow_process(broken, "always-dies"), signal.SIGKILL)
    ended = broken.api.becomes(run, "FAILED", seconds=AGAIN_WITHIN)
    assert "died 3 times" in ended["state"]["message"]


def test_a_dispatched_stage_whose_worker_died_is_sent_again_and_frees_its_place_in_the_pool(
    broken: World,
) -> None:
    config = broken.config("gpu-killed", upto=40, seconds=0.5)
    broken.start_worker("cpu", FINETUNE_GPU_POOL="gpu")
    worker = broken.start_worker("gpu")
    run = broken.begin(config)
    broken.counted(config, 5)
    kill_tree(worker)
    broken.start_worker("gpu")
    broken.api.becomes(run, "COMPLETED", seconds=TRUE_WITHIN + AGAIN_WITHIN)
    assert [line.split()[0] for line in broken.ledger("gpu-killed")] == ["began", "resumed", "ended"]
    sent = [one for one in broken.api.runs("build") if one["name"].startswith("count-")]
    assert sorted(one["state_name"] for one in sent[:2]) == ["Built", "Crashed"]
    broken.require_whole(config)


def test_two_workers_on_one_stage_build_it_once(broken: World) -> None:
    config = broken.config("two-workers", upto=10, seconds=0.5)
    broken.start_worker()
    broken.start_worker()
    runs = [broken.begin(config), broken.begin(config)]
    for run in runs:
        assert broken.api.ended(run, AGAIN_WITHIN)["state_name"] == "Completed"
    assert [line.split()[0] for line in broken.ledger("two-workers")] == ["began", "ended"]
    states = [broken.api.tasks(run)["count"] for run in runs]
    assert sorted(states) == ["Built", "Cached"]
    broken.require_whole(config)


def test_queued_runs_all_end_and_each_artifact_is_built_once(broken: World) -> None:
    total, different = int(os.environ.get("FINETUNE_FAULT_RUNS", "200")), 20
    for _ in range(2):
        broken.start_worker("cpu", limit="2")
    configs = [broken.config(f"queued-{i % different}", upto=3 + i % different) for i in range(total)]
    runs = [broken.begin(config) for config in configs]
    for run in runs:
        broken.api.becomes(run, *FINAL, seconds=60 + 30 * total)
    assert {broken.api.run(run)["state_name"] for run in runs} == {"Completed"}
    for i in range(min(different, total)):
        assert [line.split()[0] for line in broken.ledger(f"queued-{i}")] == ["began", "ended"]
    assert psutil.pid_exists(broken.workers[0].pid)
