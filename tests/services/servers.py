"""Real servers on loopback, each test session with ports and databases of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
POSTGRES = "127.0.0.1", 5432
REDIS = "127.0.0.1", 6379
START_SECONDS = 180


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def require_postgres() -> None:
    """Skip where nothing listens."""
    try:
        socket.create_connection(POSTGRES, timeout=2).close()
    except OSError as error:
        pytest.skip(f"PostgreSQL does not answer at {POSTGRES[0]}:{POSTGRES[1]} ({error})")


@contextmanager
def own_database() -> Iterator[str]:
    """Yield ``root@host:port/name`` of a new database, dropped in the end."""
    require_postgres()
    name, there = f"finetune_{uuid.uuid4().hex[:12]}", ("-h", POSTGRES[0], "-p", str(POSTGRES[1]))
    subprocess.run(["createdb", *there, name], check=True)
    try:
        yield f"root@{POSTGRES[0]}:{POSTGRES[1]}/{name}"
    finally:
        subprocess.run(["dropdb", *there, "--if-exists", "--force", name], check=True)


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return what a team's process gets: nothing of the user's settings, a store below ``home``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FINETUNE_", "PREFECT_", "MLFLOW_"))}
    own = {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FINETUNE_STORE": str(home / "store"),
        "FINETUNE_WORKERS": "1",
        "FINETUNE_DIRECTORY": str(ROOT),
        "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "DO_NOT_TRACK": "1",
    }
    (home / "prefect").mkdir(parents=True, exist_ok=True)
    return {**kept, **own, **more}


@contextmanager
def process(
    command: list[str], env: Mapping[str, str], log: Path, where: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a group of its own until the block ends."""
    with log.open("ab") as out:
        running = subprocess.Popen(
            command, env=env, stdout=out, stderr=out, cwd=where, start_new_session=True
        )
    try:
        yield running
    finally:
        end(running, signal.SIGKILL)


def end(running: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """End a process and its group."""
    with suppress(ProcessLookupError):
        os.killpg(running.pid, how)
    try:
        running.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait(20)


def wait_for(what: Callable[[], Any], seconds: float = START_SECONDS, said: str = "") -> Any:
    """Return the first true answer; AssertionError where there is none in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = what()
        if found:
            return found
        time.sleep(0.25)
    raise AssertionError(f"not in {seconds} s: {said or what}")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


@contextmanager
def prefect_server(home: Path, **more: str) -> Iterator[dict[str, str]]:
    """Run Prefect's server on a database of its own; yield the environment of what works with it."""
    port, log = free_port(), home / "server.log"
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with own_database() as database:
        stored = f"postgresql+asyncpg://{database}"
        env = environment(home, PREFECT_API_DATABASE_CONNECTION_URL=stored, PREFECT_API_URL=url, **more)
        with process(command, env, log):
            wait_for(lambda: answers(f"{url}/health"), said=f"Prefect's server, {log}")
            yield env


@contextmanager
def bucket(home: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Run moto's S3 server; yield its address and the environment of a store in a bucket of it."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    import boto3

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with process(command, os.environ, home / "moto.log"):
        wait_for(lambda: answers(f"{url}/moto-api/"), said="moto")
        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="a",
            aws_secret_access_key="b",
        )
        client.create_bucket(Bucket="finetune")
        client.close()
        yield url, keys | {"AWS_ENDPOINT_URL": url, "FINETUNE_STORE": "s3://finetune/store"}


def finetune(
    env: Mapping[str, str], *arguments: str, timeout: float = 300, where: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        env=env,
        cwd=where,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def worker_command(pool: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "flows", "worker", "--pool", pool, *more]
