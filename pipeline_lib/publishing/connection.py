"""The way to MLflow: which tracking database or server, whether it answers, and silence about it.

MLflow keeps runs (`tracking`) and registered versions (`registry`) behind one tracking URI, from the
settings. Everything that talks to it does so within `connected`.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.core.errors import ConfigError, ServiceError
from pipeline_lib.core.locks import hold
from pipeline_lib.core.remote import without_user
from pipeline_lib.settings import home, settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from pydantic import BaseModel

REFUSALS = ("INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "UNAUTHENTICATED")
"""MLflow's codes for what another try does not mend."""
TRIES = 3
FIRST_WAIT_S = 0.5
PROBE_TIMEOUT_S = 10
SQLITE = "sqlite:///"
CHATTY = (
    "mlflow",
    "alembic",
    "sqlalchemy",
    "huggingface_hub",
    "transformers",
    "bitsandbytes",
    "torch",
    "urllib3",
)
QUIET_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


def tracking_uri() -> str:
    """Return the tracking URI of the settings, an SQLite path made absolute."""
    uri = settings().mlflow_tracking_uri
    database = database_of(uri)
    return f"{SQLITE}{database}" if database else uri


def registry_target(config: BaseModel) -> str:
    """Return where a registration goes: the tracking URI, no credentials, a mark where there is no database.

    The mark makes a registration whose SQLite file was deleted count as missing, so that it is done again.
    """
    uri = tracking_uri()
    database = database_of(uri)
    mark = " (absent)" if database and not database.exists() else ""
    return without_user(uri) + mark


def artifact_location() -> str | None:
    """Return where a new experiment keeps its files, as a URI; None where a server decides."""
    return (home() / "mlflow-artifacts").resolve().as_uri() if database_of(tracking_uri()) else None


def database_of(uri: str) -> Path | None:
    """Return the file behind an SQLite URI; None for a server, another database, or one in memory."""
    path = uri.removeprefix(SQLITE)
    return Path(path).resolve() if path != uri and path not in ("", ":memory:") else None


@contextmanager
def connected() -> Iterator[MlflowClient]:
    """Yield a client of a registry that answers; in one line ServiceError where it does not.

    ConfigError where it refuses what is asked.

    Within the block the fluent functions of ``mlflow`` go to the same place.
    """
    uri = tracking_uri()
    database = database_of(uri)
    with _environment({**_unless_set(QUIET_ENVIRONMENT), "MLFLOW_TRACKING_URI": uri}), quiet():
        import mlflow
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            if database:
                database.parent.mkdir(parents=True, exist_ok=True)
            mlflow.set_tracking_uri(uri)
            # The first to open an SQLite file makes its tables, and fails where two do at once.
            with hold(database.with_name(f".{database.name}.lock")) if database else nullcontext():
                client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
                _probe(client)
            yield client
        except (mlflow.MlflowException, RequestException, SQLAlchemyError) as error:
            refused = getattr(error, "error_code", None) in REFUSALS
            raise (ConfigError if refused else ServiceError)(
                f"MLflow at {without_user(uri)} {_line(error)}; "
                "check MLFLOW_TRACKING_URI and run again, what is built is kept"
            ) from error


def _probe(client: MlflowClient) -> None:
    """Ask for one experiment, a few times with growing pauses; raises the last error."""
    from mlflow import MlflowException

    with _environment(
        {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(PROBE_TIMEOUT_S)}
    ):
        for attempt in range(TRIES):
            try:
                client.search_experiments(max_results=1)
                return
            except MlflowException:
                if attempt == TRIES - 1:
                    raise
                time.sleep(FIRST_WAIT_S * 2**attempt)


def _line(error: Exception) -> str:
    from requests import RequestException

    # MLflow words a broken connection at length, around the error that it met.
    if isinstance(error.__context__, RequestException):
        return f"does not answer ({type(error.__context__).__name__})"
    lines = str(error).strip().splitlines()
    return "says: " + (lines[0][:300] if lines else type(error).__name__)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep MLflow's, its migrations' and the model libraries' chatter off the terminal for the block."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow  # noqa: F401  (its import sets the levels that are changed next)

        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _unless_set(values: Mapping[str, str]) -> dict[str, str]:
    """Return ``values``, each giving way to what the user's environment says."""
    return {name: os.environ.get(name, value) for name, value in values.items()}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
