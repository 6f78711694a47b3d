"""A worker elsewhere: a directory of its own, and only the store's URL and both servers in common."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.services.servers import bucket, finetune, prefect_server, process, worker_command
from tests.services.words import write_config

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.mark.parametrize("place", ["bucket", "directory"])
def test_a_worker_that_shares_only_addresses_builds_what_its_caller_takes_from_the_store(
    tmp_path: Path, place: str
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    config = write_config(here, merge=None, evaluate=None)
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
    assert {name for name, command in built_by.items() if command == "engine.py"} == {"train"}
    assert {one["status"] for one in stages.values()} == {"built"}
    assert not [path for path in there.rglob("*.jsonl") if path.name == "data.jsonl"]
    if place == "bucket":
        mirrored = {path.parent.name for path in there.rglob("*.*") if path.name != "manifest.json"}
        assert stages["train"]["fingerprint"] in mirrored
        assert stages["ingest"]["fingerprint"] not in mirrored, "only what the stage needs is pulled"
