"""The model registry for the command: versions and aliases, and a run logged though nothing was built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.plan import current_runner
from pipeline_lib.core.remote import without_user
from pipeline_lib.core.stage import Recipe
from pipeline_lib.core.store import Materialized, Store
from pipeline_lib.kinds import Model, Trained
from pipeline_lib.publishing.champion import rival
from pipeline_lib.publishing.connection import connected, database_of, tracking_uri
from pipeline_lib.publishing.live import followed
from pipeline_lib.publishing.registry import VersionRow, promote, rollback, versions

__all__ = [
    "VersionRow",
    "champion_against",
    "find_version",
    "live_in_mlflow",
    "log_run",
    "promote",
    "registered_paths",
    "registry_exists",
    "rollback",
    "run_url",
    "versions",
]


def registry_exists() -> bool:
    """Return whether there may be registered models: a server is named, or the database is there."""
    database = database_of(tracking_uri())
    return database is None or database.exists()


def registered_paths() -> list[Path]:
    """Return the directories of all registered models in the store."""
    return [Path(row.path) for row in versions() if row.path] if registry_exists() else []


def champion_against(name: str, model: Model) -> Model | None:
    """Return the champion that ``model`` is held against, in the run's store, there or not; None without.

    A model that is yet to be built is held against the champion there is.
    """
    found = rival(name, model.digest)
    if found is None:
        return None
    return Model(current_runner().store.root / found.address, found.digest, found.address.partition("/")[2])


@contextmanager
def live_in_mlflow(
    experiment: str | None, store: Store, recipe: Recipe[Any]
) -> Iterator[Callable[[Materialized[Any]], None]]:
    """Show a training that is built in the block in MLflow while it goes on; give what is told of its end.

    Nothing is shown of another stage, or without an experiment.
    """
    if experiment is None or recipe.stage.produces is not Trained:
        yield lambda done: None
        return
    with followed(experiment, store.work_of(recipe), recipe.fingerprint) as trained:
        yield lambda done: trained(done.artifact.history) if done.built else None


def find_version(name: str, alias: str | None) -> VersionRow:
    """Return the version of a model with ``alias``, or its champion, else its candidate, else its newest."""
    from pipeline_lib.core.errors import ConfigError

    rows = versions(name)
    for wanted in [alias] if alias else ["champion", "candidate"]:
        for row in rows:
            if wanted in row.aliases or wanted == str(row.version):
                return row
    if alias or not rows:
        known = sorted({known for row in rows for known in row.aliases})
        raise ConfigError(
            f"{name} has no version {alias or ''!r}; it has {', '.join(known) or 'no aliases'} "
            f"and versions {', '.join(str(row.version) for row in rows) or 'none'}"
        )
    return rows[0]


def log_run(artifacts: Mapping[str, Artifact], experiment: str, name: str) -> str:
    """Write a finished run about the artifacts to MLflow, and return its id."""
    from pipeline_lib.publishing import tracking

    with connected() as client:
        run_id = tracking.log_run(
            client, tracking.contents_of(artifacts), experiment=experiment, name=name, tags={"kind": "run"}
        )
        tracking.end_run(client, run_id)
    return run_id


def run_url(run_id: str) -> str | None:
    """Return where a browser shows an MLflow run, or None where no server is named that shows it.

    ServiceError where MLflow does not answer.
    """
    from pipeline_lib.settings import settings

    base = settings().mlflow_ui_url or without_user(tracking_uri())
    if not base.startswith("http"):
        return None
    with connected() as client:
        experiment = client.get_run(run_id).info.experiment_id
    return f"{base.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"
