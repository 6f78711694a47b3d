"""The servers and workers of a team, started in the foreground from the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from flows.deployments import DIRECTORY, HEARTBEAT_SECONDS, require_server
from flows.dispatch import CPU, GPU, pools
from pipeline_lib.core.errors import ServiceError
from pipeline_lib.core.remote import without_user
from pipeline_lib.settings import home, settings

LOOPBACK = "127.0.0.1"
START_SECONDS = 120.0
MLFLOW_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""Without the first MLflow starts nine more processes, which nothing here uses."""


def worker_environment() -> dict[str, str]:
    """Return the environment in which a worker's runs find what this process finds, wherever they start."""
    own = settings()
    return {
        **os.environ,
        DIRECTORY: str(Path.cwd()),
        "FINETUNE_STORE": own.store if "://" in own.store else str(Path(own.store).resolve()),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": os.environ.get(
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(HEARTBEAT_SECONDS)
        ),
        "PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "5"),
        "PREFECT_API_URL": own.prefect_api_url or "",
        "PREFECT_HOME": os.environ.get("PREFECT_HOME", str((home() / "prefect").resolve())),
        "DO_NOT_TRACK": "1",
    }


def worker_command(pool: str, limit: int | None, name: str | None) -> list[str]:
    """Return the command of a worker: one run at a time in the GPU pool, ``limit`` in the other."""
    given = pools()
    chosen = given.get(pool, pool)
    at_once = limit or (1 if chosen == given[GPU] else None)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", chosen, "--type", "process"]
    command += ["--install-policy", "never", "--no-create-pool-if-not-found"]
    command += ["--limit", str(at_once)] if at_once else []
    return [*command, "--name", name] if name else command


def work(pool: str = CPU, limit: int | None = None, name: str | None = None) -> None:
    """Become a worker of ``pool``; does not return."""
    require_server()
    environment = worker_environment()
    Path(environment["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    os.execve(sys.executable, worker_command(pool, limit, name), environment)


@dataclass(frozen=True)
class Server:
    """A server of a team: its name, its address, what says that it is well, and how to start it."""

    name: str
    url: str
    health: str
    command: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def answers(self) -> bool:
        """Whether it is up; a refusal for want of a password is an answer too."""
        try:
            with urllib.request.urlopen(self.health, timeout=2):
                return True
        except urllib.error.HTTPError as error:
            return error.code in (401, 403)
        except (OSError, ValueError):
            return False


def servers(prefect_port: int, mlflow_port: int) -> list[Server]:
    """Return both servers: those that the settings name, or those that would be started here."""
    own = settings()
    api = own.prefect_api_url or f"http://{LOOPBACK}:{prefect_port}/api"
    base = api.removesuffix("/api")
    uri = own.mlflow_tracking_uri
    mlflow = uri if uri.startswith("http") else f"http://{LOOPBACK}:{mlflow_port}"
    return [
        Server("Prefect", base, f"{api}/health", *_prefect(base)),
        Server("MLflow", mlflow, f"{mlflow}/health", *_mlflow(uri, mlflow)),
    ]


def _prefect(base: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    parts = urlsplit(base)
    if parts.hostname not in (LOOPBACK, "localhost"):
        return (), ()
    command = (
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        LOOPBACK,
        "--port",
        str(parts.port),
    )
    kept = {"PREFECT_HOME": str((home() / "prefect").resolve()), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    return command, tuple((key, os.environ.get(key, value)) for key, value in kept.items())


def _mlflow(uri: str, url: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    if uri.startswith("http"):
        return (), ()
    port = str(urlsplit(url).port)
    artifacts = (home() / "mlflow-artifacts").resolve().as_uri()
    command = (sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", port, "--workers", "1")
    return (*command, "--backend-store-uri", uri, "--default-artifact-root", artifacts), tuple(
        MLFLOW_ENVIRONMENT.items()
    )


def serve(found: list[Server]) -> None:
    """Start those servers that do not answer and stay until Ctrl-C; returns at once where all answer."""
    missing = [one for one in found if not one.answers]
    home().mkdir(parents=True, exist_ok=True)
    for one in missing:
        if not one.command:
            raise ServiceError(
                f"{one.name} at {without_user(one.url)} does not answer, "
                "and it is not on this machine to be started"
            )
    started = []
    try:
        for one in missing:
            log = (home() / f"{one.name.lower()}-server.log").open("ab")
            Path(dict(one.environment).get("PREFECT_HOME", home())).mkdir(parents=True, exist_ok=True)
            process = subprocess.Popen(
                one.command,
                env={**os.environ, **dict(one.environment)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            started.append((one, process))
        for one, process in started:
            _await(one, process)
        print_addresses(found)
        for _, process in started:
            process.wait()
    finally:
        for _, process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for _, process in started:
            process.wait()


def _await(server: Server, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while not server.answers:
        if process.poll() is not None or time.monotonic() > until:
            log = home() / f"{server.name.lower()}-server.log"
            raise ServiceError(f"{server.name} did not start at {without_user(server.url)}; see {log}")
        time.sleep(0.5)


def print_addresses(found: list[Server]) -> None:
    """Write where a browser finds the servers."""
    import typer

    for one in found:
        typer.echo(f"{one.name:<8} {without_user(one.url)}")
