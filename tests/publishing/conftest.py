"""Fixtures of this room: one small pipeline, and a registry for each test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_lib.publishing.connection import connected
from tests.publishing.small_pipeline import Pipeline, build_pipeline, registry_at


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """One pipeline with an open gate that no test changes."""
    return build_pipeline(tmp_path_factory.mktemp("finetune") / "store")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's empty SQLite database; making one takes two seconds, copying it none."""
    database = tmp_path_factory.mktemp("database") / "mlflow.db"
    with registry_at(database, pytest.MonkeyPatch()), connected():
        return database


@pytest.fixture
def registry(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a registry of the test's own, in SQLite; yield the database's path."""
    database = tmp_path / "home" / "mlflow.db"
    database.parent.mkdir()
    shutil.copy(empty_database, database)
    with registry_at(database, monkeypatch):
        yield database
