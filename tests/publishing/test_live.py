"""A training's curves stand in MLflow while it trains, once each, and below the pipeline's run in the end."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.kinds import HISTORY
from pipeline_lib.publishing.connection import connected
from pipeline_lib.publishing.live import TAG, followed, take_in
from pipeline_lib.publishing.tracking import PARENT_TAG, experiment_id
from pipeline_lib.settings import settings

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
EXPERIMENT, FINGERPRINT = "live", "f" * 64


def _runs() -> list[Any]:
    with connected() as client:
        return list(client.search_runs([experiment_id(client, EXPERIMENT)], f"tags.{TAG} = '{FINGERPRINT}'"))


def _losses(run: Any) -> list[tuple[int, float]]:
    with connected() as client:
        return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train.loss")]


def _until(there: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.5)


def _write(journal: Path, steps: range) -> None:
    with journal.open("a", encoding="utf-8") as file:
        for step in steps:
            file.write(json.dumps({"step": step, "epoch": 0.1, "loss": 5.0 - step / 10}) + "\n")


def test_points_arrive_while_the_journal_grows_and_each_of_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    settings.cache_clear()
    journal = tmp_path / HISTORY
    with followed(EXPERIMENT, tmp_path, FINGERPRINT) as trained:
        assert not _runs()
        _write(journal, range(1, 4))
        _until(lambda: bool(_runs()) and len(_losses(_runs()[0])) == 3)
        assert _runs()[0].info.status == "RUNNING"
        # A killed training forgets what came after its checkpoint, and makes it again.
        journal.write_text("".join(f"{line}\n" for line in journal.read_text().splitlines()[:2]))
        _write(journal, range(3, 6))
        with journal.open("a", encoding="utf-8") as file:
            file.write('{"step": 6, "lo')
        _until(lambda: len(_losses(_runs()[0])) == 5)
        whole = tmp_path / "whole.jsonl"
        _write(whole, range(1, 8))
        journal.unlink()
        trained(whole)
    _until(lambda: _runs()[0].info.status == "FINISHED")
    (run,) = _runs()
    assert _losses(run) == [(step, 5.0 - step / 10) for step in range(1, 8)]


def test_the_first_pipeline_that_registers_takes_the_training_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    settings.cache_clear()
    whole = tmp_path / "whole.jsonl"
    _write(whole, range(1, 3))
    with followed(EXPERIMENT, tmp_path, FINGERPRINT) as trained:
        trained(whole)
    _until(lambda: [run.info.status for run in _runs()] == ["FINISHED"])
    with connected() as client:
        first, second = (client.create_run(experiment_id(client, EXPERIMENT)).info.run_id for _ in "ab")
        for parent in (first, second):
            take_in(client, parent, FINGERPRINT)
    (run,) = _runs()
    assert run.data.tags[PARENT_TAG] == first


def test_a_training_that_failed_gives_way_to_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    settings.cache_clear()
    _write(tmp_path / HISTORY, range(1, 3))
    with followed(EXPERIMENT, tmp_path, FINGERPRINT):
        _until(lambda: bool(_runs()))
    _until(lambda: _runs()[0].info.status == "FAILED")
    (failed,) = _runs()
    with followed(EXPERIMENT, tmp_path, FINGERPRINT):
        _until(lambda: [run.info.run_id for run in _runs()] not in ([failed.info.run_id], []))
    _until(lambda: [run.info.status for run in _runs()] == ["FAILED"])
