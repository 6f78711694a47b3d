"""Two versions by command: promoted, rolled back, and a champion that is lost or damaged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.servers import environment, finetune
from tests.services.words import SMALL, write_config

pytestmark = pytest.mark.slow
HELD = {"gate": SMALL["gate"] | {"champion_p_value": 0.999}}
OTHER = ("--set", "train.learning_rate=1e-3")
"""Trains less well than the config does."""
ASKED_ANEW = (*OTHER, "--set", "evaluate.max_new_tokens=6")
"""So that no model's answers are in the store yet."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], str]:
    """A registry with two versions, and the config they were made with."""
    home = tmp_path_factory.mktemp("registered")
    env = environment(home, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="600")
    config = str(write_config(home, **HELD))
    for more, code in (((), 0), (OTHER, 1)):
        done = finetune(env, "run", config, *more, timeout=1200)
        assert done.returncode == code, done.stdout + done.stderr
    return env, config


def rows(env: dict[str, str]) -> dict[int, dict[str, Any]]:
    return {row["version"]: row for row in json.loads(finetune(env, "models", "words", "--json").stdout)}


def test_a_worse_model_is_measured_beside_the_champion_and_stays_candidate(
    place: tuple[dict[str, str], str],
) -> None:
    env, config = place
    told = rows(env)
    assert told[1]["aliases"] == ["champion"]
    assert told[2]["aliases"] == ["candidate"]
    assert told[2]["held_against"] == told[1]["digest"]
    stages = json.loads(finetune(env, "run", config, *OTHER, "--json").stdout)["stages"]
    assert {stage["status"] for stage in stages.values()} == {"cached"}


def test_promote_and_rollback_move_the_champion_and_keep_the_reason(
    place: tuple[dict[str, str], str],
) -> None:
    env, _ = place
    done = finetune(env, "promote", "words", "2", "--reason", "a person wants it")
    assert done.returncode == 0
    assert done.stderr.startswith("note: the gate of words version 2 is closed; ")
    assert rows(env)[2]["aliases"] == ["candidate", "champion"]
    assert rows(env)[2]["reason"] == "promote over a closed gate: a person wants it"
    assert rows(env)[2]["former_champion"] == 1
    assert finetune(env, "rollback", "words", "--reason", "it answers in riddles").returncode == 0
    told = rows(env)
    assert told[1]["aliases"] == ["champion"]
    assert told[1]["reason"] == "rollback: it answers in riddles"
    assert "it answers in riddles" in told[2]["reason"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (("rollback", "words"), "version 1 is its first champion"),
        (("rollback", "words", "--version", "9"), "has no version 9; it has 2, 1"),
        (("promote", "words", "9"), "has no version 9; it has 2, 1"),
        (("promote", "nobody", "1"), "has no model 'nobody'; it has words"),
    ],
)
def test_what_cannot_be_champion_is_one_line(
    call: tuple[str, ...], says: str, place: tuple[dict[str, str], str]
) -> None:
    env, _ = place
    done = finetune(env, *call, "--reason", "a try")
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert rows(env)[1]["aliases"] == ["champion"]


@pytest.fixture
def weights(place: tuple[dict[str, str], str]) -> Iterator[Path]:
    """The champion's weights in the store, put back in the end."""
    champion = Path(rows(place[0])[1]["path"])
    kept = champion.with_name("kept")
    shutil.copytree(champion, kept)
    yield champion / "model.safetensors"
    shutil.rmtree(champion, ignore_errors=True)
    kept.rename(champion)


def test_a_champion_that_is_gone_stops_the_run_before_anything_is_built(
    place: tuple[dict[str, str], str], weights: Path
) -> None:
    env, config = place
    shutil.rmtree(weights.parent)
    assert finetune(env, "run", config, *OTHER).returncode == 1, "its answers are in the store"
    done = finetune(env, "run", config, *ASKED_ANEW)
    assert done.returncode == 1
    assert "built" not in done.stdout
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: evaluate_champion needs merge/{weights.parent.name}, which is not in the")


def test_a_champion_that_does_not_load_stops_the_run_with_the_way_on(
    place: tuple[dict[str, str], str], weights: Path
) -> None:
    env, config = place
    os.truncate(weights, 1000)
    done = finetune(env, "run", config, *ASKED_ANEW, timeout=1200)
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert f"{weights.parent}: the model does not load" in line
    assert "`finetune promote` another" in line
