"""The servers of docker-compose.yml: what it says is valid, and its commands and environment do run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.services.servers import (
    REDIS,
    ROOT,
    environment,
    free_port,
    own_database,
    process,
    wait_for,
)

pytestmark = pytest.mark.services
SECRETS = {
    "postgres": "not-used",
    "prefect": "admin:of-prefect",
    "mlflow": "of-mlflow-12",
    "mlflow_key": "key",
}


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """The file as docker-compose reads it."""
    command = shutil.which("docker-compose")
    if command is None:
        pytest.skip("docker-compose is not installed (apt-get install docker-compose)")
    done = subprocess.run(
        [command, "--profile", "gpu", "config"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    import yaml

    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def test_everything_is_bound_to_loopback_and_pinned(composed: dict[str, Any]) -> None:
    ports = [str(port) for one in composed["services"].values() for port in one.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") or "127.0.0.1" in port for port in ports)
    images = {one["image"] for one in composed["services"].values()}
    assert all(":" in image and not image.endswith(":latest") for image in images)


def test_no_secret_has_a_default_and_none_stands_in_the_file(composed: dict[str, Any]) -> None:
    assert {Path(one["file"]).parent.name for one in composed["secrets"].values()} == {"secrets"}
    for name, one in composed["services"].items():
        for key, value in (one.get("environment") or {}).items():
            if any(word in key for word in ("PASSWORD", "AUTH_STRING", "SECRET_KEY")):
                assert str(value).startswith("/run/secrets/"), f"{name}: {key}"


def test_every_server_says_whether_it_is_well_and_keeps_its_data_in_a_named_volume(
    composed: dict[str, Any],
) -> None:
    services = composed["services"]
    assert all("healthcheck" in services[name] for name in ("postgres", "redis", "prefect", "mlflow"))
    assert {"postgres", "redis", "store", "hub", "artifacts"} <= set(composed["volumes"])
    assert services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


class Here:
    """The file's services as processes of this machine: only addresses and paths differ."""

    def __init__(self, composed: dict[str, Any], home: Path, prefect_db: str, mlflow_db: str) -> None:
        self.composed, self.home = composed, home
        self.ports = {"prefect": free_port(), "mlflow": free_port()}
        for name, text in SECRETS.items():
            (home / "secrets").mkdir(exist_ok=True)
            (home / "secrets" / name).write_text(text + "\n")
        self.replaced = {
            "finetune@postgres:5432/prefect": prefect_db,
            "finetune@postgres:5432/mlflow": mlflow_db,
            "http://prefect:4200": f"http://127.0.0.1:{self.ports['prefect']}",
            "http://mlflow:5000": f"http://127.0.0.1:{self.ports['mlflow']}",
            "127.0.0.1:4200": f"127.0.0.1:{self.ports['prefect']}",
            "/run/secrets/": f"{home}/secrets/",
            "/app/mlflow-auth.ini": str(home / "mlflow-auth.ini"),
            "/artifacts": str(home / "artifacts"),
            "/hub": str(home / "hub"),
            "/store": str(home / "store"),
            "0.0.0.0": "127.0.0.1",
        }
        ini = (ROOT / "deploy" / "mlflow-auth.ini").read_text()
        (home / "mlflow-auth.ini").write_text(self.here(ini))

    def here(self, text: str) -> str:
        for there, here in self.replaced.items():
            text = text.replace(there, here)
        return text

    def command(self, service: str) -> list[str]:
        command = [self.here(str(part)) for part in self.composed["services"][service]["command"]]
        if service in self.ports:
            command[command.index("--port") + 1] = str(self.ports[service])
        return [str(ROOT / "deploy" / "with-secrets"), *command]

    def environment(self, service: str) -> dict[str, str]:
        given = self.composed["services"][service].get("environment") or {}
        env = {key: self.here(str(value if value is not None else "")) for key, value in given.items()}
        if "PREFECT_REDIS_MESSAGING_HOST" in env:
            env |= {"PREFECT_REDIS_MESSAGING_HOST": REDIS[0], "PREFECT_REDIS_MESSAGING_DB": "9"}
        env = {key: value for key, value in env.items() if value or not key.startswith("FINETUNE_")}
        base = environment(self.home)
        return {**base, "FINETUNE_DIRECTORY": str(ROOT), **env}


def answer(url: str, user: str | None = None) -> int:
    request = urllib.request.Request(url)
    if user:
        request.add_header("Authorization", "Basic " + b64encode(user.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=5) as found:
            return int(found.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture(scope="module")
def started(composed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    for package in ("psycopg2", "prefect_redis", "flask_wtf"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra `services`)")
    try:
        socket.create_connection(REDIS, timeout=2).close()
    except OSError as error:
        pytest.skip(f"Redis does not answer at {REDIS[0]}:{REDIS[1]} ({error})")
    home = tmp_path_factory.mktemp("compose")
    with own_database() as prefect_db, own_database() as mlflow_db, ExitStack() as stack:
        here = Here(composed, home, prefect_db, mlflow_db)
        for service, path in (("prefect", "/api/health"), ("mlflow", "/health")):
            stack.enter_context(
                process(here.command(service), here.environment(service), home / f"{service}.log")
            )
            url = f"http://127.0.0.1:{here.ports[service]}{path}"
            wait_for(lambda url=url: answer(url) in (200, 401), said=f"{service}, {home}")
        stack.enter_context(
            process(
                here.command("prefect-services"), here.environment("prefect-services"), home / "services.log"
            )
        )
        done = subprocess.run(
            here.command("deploy"),
            env=here.environment("deploy"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        stack.enter_context(process(here.command("worker"), here.environment("worker"), home / "worker.log"))
        yield here


@pytest.mark.slow
def test_both_servers_refuse_without_the_password_and_answer_with_it(started: Here) -> None:
    prefect = f"http://127.0.0.1:{started.ports['prefect']}/api/flow_runs/count"
    mlflow = f"http://127.0.0.1:{started.ports['mlflow']}/api/2.0/mlflow/experiments/get?experiment_id=0"
    body = json.dumps({}).encode()
    assert answer(mlflow) == 401
    assert answer(mlflow, "admin:wrong") == 401
    assert answer(mlflow, "admin:of-mlflow-12") == 200
    for user, status in ((None, 401), ("admin:wrong", 401), (SECRETS["prefect"], 200)):
        request = urllib.request.Request(prefect, body, {"Content-Type": "application/json"})
        if user:
            request.add_header("Authorization", "Basic " + b64encode(user.encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=5) as found:
                code = found.status
        except urllib.error.HTTPError as error:
            code = error.code
        assert code == status


@pytest.mark.slow
def test_a_run_goes_from_the_deployment_to_the_worker_and_its_scores_to_mlflow(started: Here) -> None:
    env = started.environment("worker") | {
        "PREFECT_API_AUTH_STRING": SECRETS["prefect"],
        "MLFLOW_TRACKING_PASSWORD": SECRETS["mlflow"],
    }
    code = (
        "from prefect.deployments import run_deployment;"
        "print(run_deployment('curate/quickstart', timeout=240, poll_interval=1).state.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "Completed", done.stderr
