"""MLflow goes away for a minute while a run's figures are written: in the end it has each of them once."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.faults.world import World, end
from tests.services.servers import ROOT, answers, free_port, wait_for

pytestmark = [pytest.mark.services, pytest.mark.slow]
AWAY_SECONDS = 60


def rows(database: Path, query: str) -> list[Any]:
    """Return what a query finds in MLflow's database; nothing where it is not made yet."""
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db,
    ):
        return db.execute(query).fetchall()
    return []


def test_figures_are_complete_and_single_after_mlflow_was_away_for_a_minute(broken: World) -> None:
    port, database = free_port(), broken.home / "server.db"
    env = {
        **broken.env,
        "FINETUNE_STORE": str(broken.home / "registering" / "store"),
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    server = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    server += ["--backend-store-uri", f"sqlite:///{database}"]
    server += ["--artifacts-destination", str(broken.home / "server-artifacts")]

    def start() -> subprocess.Popen[bytes]:
        started = broken.start(server, env, "mlflow.log")
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), said="MLflow's server")
        return started

    first = start()
    ready = broken.home / "ready"
    caller = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.registering", str(ready)],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    broken.stack.callback(caller.kill)
    wait_for(lambda: rows(database, "select 1 from metrics limit 1"), 400, "the first figures")
    end(first, signal.SIGKILL)
    torn = rows(database, "select count(*) from metrics")[0][0]
    time.sleep(AWAY_SECONDS)
    start()
    told, said = caller.communicate(timeout=600)
    assert caller.returncode == 0, said
    registered = json.loads(told)
    assert (registered["version"], registered["aliases"]) == (1, ["candidate", "champion"])
    run_id = registered["run_id"]
    figures = rows(database, f"select key, step, value from metrics where run_uuid = '{run_id}'")
    assert len(figures) > torn, "MLflow went away before all was written"
    assert max(Counter((key, step) for key, step, _ in figures).values()) == 1, "no figure stands twice"
    losses = {step: value for key, step, value in figures if key == "train.loss"}
    history = next(broken.home.glob("registering/store/train/*/logs/history.jsonl")).read_text()
    points = [point for point in map(json.loads, history.splitlines()) if "loss" in point]
    assert losses == {point["step"]: pytest.approx(point["loss"]) for point in points}
    alive = rows(database, "select run_uuid, status from runs where lifecycle_stage = 'active'")
    assert (run_id, "FINISHED") in alive
    assert {status for _, status in alive} == {"FINISHED"}, "no half of a run is left"
    run = broken.api.runs("registering")[0]
    assert run["state_name"] == "Completed"
    assert broken.api.tasks(run["id"]) == {"register": "Built"}
