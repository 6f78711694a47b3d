"""A training dies with its worker: it is crashed in Prefect, and goes on from its checkpoint elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.test_processes_die import TRUE_WITHIN
from tests.faults.world import World, kill_tree
from tests.services.servers import finetune, wait_for
from tests.services.words import SMALL, write_config

pytestmark = [pytest.mark.services, pytest.mark.slow]
STEPS, SAVE_STEPS = 150, 10
ENDS_WITHIN = 900


@pytest.fixture(scope="module")
def trained_here(everything: World) -> dict[str, Any]:
    """The config of a deployed pipeline that ends with its training."""
    train = SMALL["train"] | {"max_steps": STEPS, "save_steps": SAVE_STEPS}
    path = write_config(everything.home, train=train, merge=None, evaluate=None)
    deployed = finetune(everything.env, "deploy", str(path))
    assert deployed.returncode == 0, deployed.stderr
    config: dict[str, Any] = everything.api.deployments()["pipeline/words"]["parameters"]["config"]
    return config


def saved(world: World) -> Path | None:
    """Return the work directory of a training that is going on and has kept a whole checkpoint."""
    found = (world.home / "store" / ".work").glob("train-*/checkpoints/checkpoint-*/whole")
    return next((path.parents[2] for path in found), None)


@pytest.mark.parametrize("pool", ["cpu", "gpu"])
def test_a_training_killed_with_its_worker_goes_on_from_its_checkpoint(
    broken: World, trained_here: dict[str, Any], pool: str
) -> None:
    dispatched = {"FINETUNE_GPU_POOL": "gpu"} if pool == "gpu" else {}
    config = {**trained_here, "train": {**trained_here["train"], "seed": len(dispatched)}}
    victim = broken.start_worker("cpu", **dispatched)
    if dispatched:
        victim = broken.start_worker("gpu")
    run = broken.api.start("pipeline/words", config=config)
    work = wait_for(lambda: saved(broken), ENDS_WITHIN, "a checkpoint")
    kill_tree(victim)
    before = (work / "history.jsonl").read_text().splitlines()[:SAVE_STEPS]
    dead = run if pool == "cpu" else broken.api.runs("build")[0]["id"]
    wait_for(lambda: "Crashed" in broken.states(dead), TRUE_WITHIN, "the dead run to be shown as crashed")
    broken.start_worker(pool)
    broken.api.becomes(run, "COMPLETED", seconds=ENDS_WITHIN)
    logs = broken.home.glob("store/train/*/logs/history.jsonl")
    after = max(logs, key=lambda path: path.stat().st_mtime).read_text().splitlines()
    steps = [point["step"] for point in map(json.loads, after) if "loss" in point]
    assert steps == list(range(1, STEPS + 1)), "every step once"
    assert after[:SAVE_STEPS] == before, (
        "what was learnt before the kill, with its timings, was not done again"
    )
    assert json.loads(finetune(broken.env, "verify", "--json").stdout)["damaged"] == []
