"""What a person agrees to or cancels, and what the clock starts: each a deployment, on a real worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.services.api import FINAL
from tests.services.conftest import Team
from tests.services.servers import finetune, wait_for
from tests.services.words import write_data

pytestmark = [pytest.mark.services, pytest.mark.slow]
LONG = 1200.0
OTHER_WORDS = "copper silver iron tin lead gold zinc nickel cobalt mercury platinum chrome".split()


def registered(team: Team) -> list[tuple[int, list[str]]]:
    """Return the registered versions with their aliases."""
    listed = finetune(team.env, "models", "--json")
    return [(row["version"], sorted(row["aliases"])) for row in json.loads(listed.stdout)]


def cancel(team: Team, run: str) -> None:
    """Do what the UI's button does."""
    state = {"type": "CANCELLING", "name": "Cancelling"}
    team.api.ask(f"/flow_runs/{run}/set_state", {"state": state})


def artifact(team: Team, run: str, key: str) -> Any:
    """Return what a run left under a key."""
    found = team.api.ask("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    return next(one["data"] for one in found if one["key"] == key)


def trained_with(team: Team, **train: Any) -> dict[str, Any]:
    """Return the deployed config with another training."""
    config = team.api.deployments()["pipeline/words"]["parameters"]["config"]
    return {**config, "train": {**config["train"], **train}}


@contextmanager
def data_of(team: Team, words: list[str]) -> Iterator[None]:
    """Let the sources hold other data for a while."""
    source = team.home / "data.jsonl"
    before = source.read_bytes()
    write_data(source, words)
    try:
        yield
    finally:
        source.write_bytes(before)


@pytest.fixture(scope="module")
def approved(team: Team) -> str:
    """A run that has waited for a person, who agreed."""
    run = team.api.start("pipeline/words")
    team.api.becomes(run, "PAUSED", *FINAL, seconds=LONG)
    assert registered(team) == []
    assert "Resume this run" in artifact(team, run, "verdict")
    assert team.api.ask(f"/flow_runs/{run}/resume", {})["status"] == "ACCEPT"
    assert team.api.ended(run, LONG)["state_name"] == "Completed"
    return run


def test_a_run_that_a_person_agreed_to_registers_the_champion(team: Team, approved: str) -> None:
    assert registered(team) == [(1, ["candidate", "champion"])]
    assert team.api.tasks(approved)["register"] == "Built"


def test_a_run_that_a_person_refused_ends_as_cancelled_and_registers_nothing(
    team: Team, approved: str
) -> None:
    run = team.api.start("pipeline/words", config=trained_with(team, seed=1))
    team.api.becomes(run, "PAUSED", *FINAL, seconds=LONG)
    cancel(team, run)
    assert team.api.ended(run, LONG)["state_name"] == "Cancelled"
    assert registered(team) == [(1, ["candidate", "champion"])]
    assert len(list((team.home / "store" / "report").iterdir())) == 2, "what was built is kept"


def test_a_cancelled_training_saves_a_checkpoint_from_which_the_next_run_goes_on(team: Team) -> None:
    config = trained_with(team, max_steps=400, save_steps=400, seed=2) | {"merge": None, "evaluate": None}
    run = team.api.start("pipeline/words", config=config)
    works = team.home / "store" / ".work"

    def learning() -> Path | None:
        histories = works.glob("train-*/history.jsonl")
        return next((path for path in histories if len(path.read_text().splitlines()) > 2), None)

    history: Path = wait_for(learning, LONG, "the training to begin")
    cancel(team, run)
    assert team.api.ended(run)["state_name"] == "Cancelled"
    kept = wait_for(lambda: [*history.parent.glob("checkpoints/checkpoint-*/whole")], 120, "a checkpoint")
    step = int(kept[0].parent.name.rpartition("-")[2])
    before = [line for line in history.read_text().splitlines() if json.loads(line)["step"] <= step]
    assert 0 < step < 400
    again = team.api.start("pipeline/words", config=config)
    assert team.api.ended(again, LONG)["state_name"] == "Completed"
    logs = max(team.home.glob("store/train/*/logs/history.jsonl"), key=lambda path: path.stat().st_mtime)
    after = logs.read_text().splitlines()
    assert after[: len(before)] == before
    assert [point["step"] for point in map(json.loads, after) if "loss" in point] == list(range(1, 401))


def test_the_champion_is_measured_again_on_the_data_of_today(team: Team, approved: str) -> None:
    before = set((team.home / "store" / "evaluate").iterdir())
    with data_of(team, OTHER_WORDS):
        run = team.api.start("reevaluate/words")
        ended = team.api.ended(run, LONG)
    assert ended["state_name"] == "Completed"
    assert "version 1 measured on fresh data" in ended["state"]["message"]
    rows = {row["metric"]: row for row in json.loads(artifact(team, run, "champion"))}
    new = set((team.home / "store" / "evaluate").iterdir()) - before
    scores = json.loads((new.pop() / "scores.json").read_text())["scores"]
    assert rows["perplexity"]["value"] == scores["perplexity"]["value"]
    assert registered(team) == [(1, ["candidate", "champion"])], "measuring changes no champion"


def test_drift_starts_a_training_only_where_the_data_have_changed_enough(team: Team, approved: str) -> None:
    before = len(team.api.runs("pipeline"))
    run = team.api.start("drift/words")
    assert team.api.ended(run, LONG)["state_name"] == "Unchanged"
    assert len(team.api.runs("pipeline")) == before
    with data_of(team, OTHER_WORDS):
        run = team.api.start("drift/words")
        assert team.api.ended(run, LONG)["state_name"] == "Changed"
        figures = {row["rule"]: row for row in json.loads(artifact(team, run, "drift"))}
        assert any(row["passed"] for row in figures.values())
        started = next(one for one in team.api.runs("pipeline") if one["state_type"] not in FINAL)
        assert len(team.api.runs("pipeline")) == before + 1
        cancel(team, started["id"])
        assert team.api.ended(started["id"], LONG)["state_type"] == "CANCELLED"


def test_a_schedule_fires_and_prunes_what_nothing_refers_to(team: Team, approved: str) -> None:
    stray = team.home / "store" / ".scratch" / f"split-{'0' * 64}.killed"
    stray.mkdir(parents=True)
    (stray / "half.parquet").write_bytes(bytes(1000))
    recorded = json.loads(finetune(team.env, "verify", "--json").stdout)
    try:
        deployed = finetune(team.env, "deploy", str(team.config), "--set", "operations.prune='* * * * *'")
        assert deployed.returncode == 0, deployed.stderr

        def fired() -> dict[str, Any] | None:
            done = [one for one in team.api.runs("prune") if one["state_type"] in FINAL]
            return done[-1] if done else None

        run = wait_for(fired, LONG, "the schedule to fire")
    finally:
        finetune(team.env, "deploy", str(team.config))
    assert (run["auto_scheduled"], run["state_name"]) == (True, "Completed")
    assert not stray.exists()
    assert team.api.deployments()["prune/words"]["schedules"] == []
    after = json.loads(finetune(team.env, "verify", "--json").stdout)
    assert after["damaged"] == [] == recorded["damaged"]
    assert registered(team) == [(1, ["candidate", "champion"])]
