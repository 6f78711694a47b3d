"""Servers go away for a while: work goes on, and is complete when they are back."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.world import World, end
from tests.services.servers import answers, wait_for

pytestmark = [pytest.mark.services, pytest.mark.slow]


def test_a_run_outlives_a_restart_of_prefects_server(broken: World) -> None:
    config = broken.config("server-restarted", upto=60, seconds=0.5)
    broken.start_worker()
    run = broken.begin(config)
    broken.counted(config, 4)
    assert broken.server
    end(broken.server, signal.SIGKILL)
    time.sleep(5)
    broken.start_server()
    broken.api.becomes(run, "COMPLETED", seconds=240)
    assert [line.split()[0] for line in broken.ledger("server-restarted")] == ["began", "ended"]
    broken.require_whole(config)


def test_a_run_outlives_a_crash_of_prefects_database(broken: World) -> None:
    config = broken.config("database-crashed", upto=60, seconds=0.5)
    broken.start_worker()
    run = broken.begin(config)
    broken.counted(config, 4)
    broken.cluster.stop()
    time.sleep(5)
    broken.cluster.start()
    wait_for(lambda: answers(f"{broken.api.url}/health"), 60)
    broken.api.becomes(run, "COMPLETED", seconds=240)
    assert [line.split()[0] for line in broken.ledger("database-crashed")] == ["began", "ended"]
    broken.require_whole(config)
