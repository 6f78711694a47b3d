"""In production: what is deployed can be run by hand and by the clock, and its state in Prefect is true."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from pipeline_lib.core.manifest import Manifest
from tests.services.conftest import Team
from tests.services.servers import ROOT, finetune

pytestmark = pytest.mark.services
STAGES = "ingest normalize scrub deduplicate filter decontaminate format split".split()


def test_deploying_again_changes_nothing(team: Team) -> None:
    before = {name: one["id"] for name, one in team.api.deployments().items()}
    again = finetune(team.env, "deploy", str(team.config), "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(team.deployed)
    assert {name: one["id"] for name, one in team.api.deployments().items()} == before
    assert len(team.api.ask("/automations/filter", {})) == 2


def test_the_whole_process_each_flow_one_stage_and_the_maintenance_are_deployed(team: Team) -> None:
    flows = "pipeline curate train evaluate publish stage reevaluate drift prune".split()
    expected = {*(f"{flow}/words" for flow in flows), "build/cpu", "build/gpu"}
    assert set(team.api.deployments()) == expected
    pools = {pool["name"]: pool["concurrency_limit"] for pool in team.api.ask("/work_pools/filter", {})}
    assert pools == {"cpu": None, "gpu": 1}


def test_schedules_are_those_of_the_config(team: Team) -> None:
    crons = {
        name: [schedule["schedule"]["cron"] for schedule in one["schedules"]]
        for name, one in team.api.deployments().items()
    }
    assert {name: found for name, found in crons.items() if found} == {
        "pipeline/words": ["0 2 * * *"],
        "drift/words": ["0 1 * * *"],
    }


def test_the_form_knows_every_stages_fields_with_words_defaults_bounds_and_choices(team: Team) -> None:
    schema = team.api.deployments()["pipeline/words"]["parameter_openapi_schema"]
    definitions = schema["definitions"]
    rate = definitions["TrainConfig"]["properties"]["learning_rate"]
    assert rate["title"]
    assert rate["description"]
    assert rate["default"] == 2e-4
    assert definitions["TrainConfig"]["properties"]["method"]["enum"][0] == "lora" or (
        "lora" in definitions["TrainConfig"]["properties"]["method"]["enum"]
    )
    stage = team.api.deployments()["stage/words"]["parameter_openapi_schema"]["properties"]["stage"]
    assert stage["enum"][:8] == STAGES


def test_single_fields_come_before_blocks_and_each_question_has_a_title_and_a_sentence(team: Team) -> None:
    def in_order(block: dict[str, Any]) -> list[str]:
        return sorted(block["properties"], key=lambda name: block["properties"][name]["position"])

    schema = team.api.deployments()["stage/words"]["parameter_openapi_schema"]
    asked = ["stage", "force", "onward", "approve"]
    assert in_order(schema) == [*asked, "config"]
    assert [schema["properties"][name]["title"] for name in asked] == ["Stage", "Force", "Onward", "Approve"]
    assert all(schema["properties"][name]["description"] for name in asked)
    train = in_order(schema["definitions"]["TrainConfig"])
    assert train.index("learning_rate") < train.index("epochs") < train.index("lora")


def test_a_wrong_parameter_is_refused_where_it_is_given(team: Team) -> None:
    import urllib.error

    config = team.api.deployments()["curate/words"]["parameters"]["config"]
    wrong = {**config, "deduplicate": {**config["deduplicate"], "threshold": 7}}
    with pytest.raises(urllib.error.HTTPError, match="409"):
        team.api.start("curate/words", config=wrong)


def test_a_flow_runs_on_a_worker_and_shows_its_stages_and_funnel(team: Team) -> None:
    run = team.api.start("curate/words")
    assert team.api.ended(run)["state_name"] == "Completed"
    assert team.api.tasks(run) == dict.fromkeys(STAGES, "Built")
    tables = team.api.ask("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    rows = json.loads(next(one for one in tables if one["key"] == "funnel")["data"])
    assert [row["stage"] for row in rows][:3] == STAGES[:3]
    assert all(row["read"] == row["kept"] + row["dropped"] for row in rows if row["read"] is not None)


@pytest.mark.slow
def test_one_stage_again_with_one_changed_number_builds_on_only_where_bytes_changed(team: Team) -> None:
    team.api.ended(team.api.start("curate/words"))
    config = team.api.deployments()["stage/words"]["parameters"]["config"]
    changed = {**config, "deduplicate": {**config["deduplicate"], "threshold": 0.95}}
    stage = {"stage": "deduplicate", "config": changed}
    run = team.api.start("stage/words", **stage, onward=False)
    assert team.api.ended(run)["state_name"] == "Completed"
    assert team.api.tasks(run) == {"deduplicate": "Built"}


DISPATCH = """
    import json, sys
    from flows.run import run
    from flows.screen import Screen
    from flows.call import open_store
    from pipeline_lib.core.errors import FinetuneError
    from tests.flows.tiny import GatherConfig, TinyConfig, call

    told = {}
    outcome = run(call(open_store()), Screen(lines=False))
    told["built"] = {step.name: step.status for step in outcome.steps}
    told["fingerprints"] = {step.name: step.artifact.fingerprint for step in outcome.steps}
    try:
        run(call(open_store(), TinyConfig(gather=GatherConfig(upto=3, fail=True))), Screen(lines=False))
    except FinetuneError as error:
        told["failed"] = str(error)
    json.dump(told, sys.stdout)
"""


@pytest.fixture(scope="module")
def dispatched(team: Team) -> dict[str, Any]:
    """A process whose stages are all built by the pool's worker, and one that fails there."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DISPATCH)],
        env={**team.env, "FINETUNE_CPU_POOL": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_stages_are_built_by_the_pools_worker_and_found_by_their_fingerprints(
    team: Team, dispatched: dict[str, Any]
) -> None:
    assert dispatched["built"] == dict.fromkeys(("gather", "halve", "judge"), "built")
    store = team.home / "store"
    for name, fingerprint in dispatched["fingerprints"].items():
        manifest = Manifest.read(store / name / fingerprint / "manifest.json")
        assert manifest.provenance.command == "engine.py", (
            "a flow run's process has built it, not the caller's"
        )
    children = [
        run for run in team.api.runs("build") if run["name"].startswith(("gather-", "halve-", "judge-"))
    ]
    assert {run["state_name"] for run in children} == {"Built", "Failed"}
    assert len({run["parent_task_run_id"] for run in children}) == 4, "each is in its caller's graph"


@pytest.mark.slow
def test_a_caller_fails_where_its_worker_failed(team: Team, dispatched: dict[str, Any]) -> None:
    assert "the numbers have run out" in dispatched["failed"]
    parents = team.api.runs("tiny")
    assert [run["state_name"] for run in parents] == ["Failed", "Completed"]


def test_the_configs_wish_for_approval_is_the_forms_default(team: Team) -> None:
    assert team.api.deployments()["pipeline/words"]["parameters"]["approve"] is True
