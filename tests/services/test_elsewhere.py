"""A worker elsewhere: a directory of its own, and only the store's URL and both servers in common."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.services.servers import bucket, finetune, prefect_server, process, wait_for, worker_command
from tests.services.words import write_config

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.mark.parametrize("place", ["bucket", "directory"])
def test_a_worker_that_shares_only_addresses_builds_what_its_caller_takes_from_the_store(
    tmp_path: Path, place: str
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    to_the_end = place == "directory"
    config = write_config(here, **({} if to_the_end else {"merge": None, "evaluate": None}))
    with bucket(tmp_path) as (_, keys), prefect_server(tmp_path) as shared:
        env = {**shared, **(keys if place == "bucket" else {}), "PYTHONPATH": ""}
        del env["FINETUNE_DIRECTORY"]
        deployed = finetune(env, "deploy", str(config), where=here)
        assert deployed.returncode == 0, deployed.stderr
        worker = {**env, "PREFECT_HOME": str(there / "prefect")}
        with process(worker_command("gpu"), worker, tmp_path / "worker.log", there):
            caller = {**env, "FINETUNE_GPU_POOL": "gpu"}
            done = finetune(caller, "run", str(config), "--json", where=here, timeout=1200)
            assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    manifests = {
        name: json.loads((here / one["path"] / "manifest.json").read_text()) for name, one in stages.items()
    }
    built_by = {name: one["provenance"]["command"] for name, one in manifests.items()}
    on_a_gpu = {"train", *(["merge", "evaluate_base", "evaluate"] if to_the_end else [])}
    assert {name for name, command in built_by.items() if command == "engine.py"} == on_a_gpu
    assert {one["status"] for one in stages.values()} == {"built"}
    assert not [path for path in there.rglob("*.jsonl") if path.name == "data.jsonl"]
    if place == "bucket":
        mirrored = {path.parent.name for path in there.rglob("*.*") if path.name != "manifest.json"}
        assert stages["train"]["fingerprint"] in mirrored
        assert stages["ingest"]["fingerprint"] not in mirrored, "only what the stage needs is pulled"
    else:
        require_live(
            tmp_path / "mlflow.db", here / stages["register"]["path"], stages["train"]["fingerprint"]
        )


def require_live(registry: Path, registration: Path, training: str) -> None:
    """What the worker showed of the training in MLflow stands below the run that the caller registered."""
    from mlflow import MlflowClient

    parent = json.loads((registration / "registration.json").read_text())["run_id"]
    client = MlflowClient(f"sqlite:///{registry}")
    experiment = client.get_run(parent).info.experiment_id
    (run,) = client.search_runs([experiment], f"tags.training = '{training}'")
    assert run.data.tags["mlflow.parentRunId"] == parent
    wait_for(lambda: client.get_run(run.info.run_id).info.status == "FINISHED", 60)
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train.loss")]
