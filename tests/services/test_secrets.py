"""Secrets that a run really uses are found nowhere afterwards: every byte that it left is searched."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests import loopback
from tests.curation import completions_server
from tests.services.servers import POSTGRES, ROOT, finetune, prefect_server, process, worker_command
from tests.services.words import write_config

pytestmark = [pytest.mark.services, pytest.mark.slow]
NAMES = "prefect endpoint source hub bucket registry".split()


@dataclass(frozen=True)
class Left:
    """What a run on a worker left: its directory, the server's database, and the secrets it was given."""

    home: Path
    env: dict[str, str]
    config: Path
    database: bytes
    secrets: dict[str, str]
    keys: set[str | None]
    """What the endpoint was shown."""


class Guard(SimpleHTTPRequestHandler):
    """Serves a directory to those who bring a header."""

    def __init__(self, *arguments: Any, authorization: str, **more: Any) -> None:
        self.authorization = authorization
        super().__init__(*arguments, **more)

    def send_head(self):  # type: ignore[no-untyped-def]
        if self.headers["Authorization"] != self.authorization:
            self.send_error(401)
            return None
        return super().send_head()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    home, data = tmp_path_factory.mktemp("secrets"), tmp_path_factory.mktemp("served")
    secrets = {name: f"{name}-{uuid.uuid4().hex}" for name in NAMES}
    write_config(data)
    header = f"Bearer {secrets['source']}"
    with ExitStack() as stack:
        endpoint = stack.enter_context(
            completions_server.serving(lambda body, before: completions_server.rewritten(body))
        )
        guard = partial(Guard, directory=str(data), authorization=header)
        url = stack.enter_context(loopback.serving(guard))
        config = write_config(
            home,
            ingest={"sources": [{"path": f"{url}/data.jsonl"}]},
            augment={"model": "m", "seeds": 3},
        )
        given = {
            "FINETUNE_ENDPOINT_URL": endpoint.url,
            "FINETUNE_ENDPOINT_KEY": secrets["endpoint"],
            "FSSPEC_HTTP": json.dumps({"headers": {"Authorization": header}}),
            "HF_TOKEN": secrets["hub"],
            "AWS_SECRET_ACCESS_KEY": secrets["bucket"],
            "MLFLOW_TRACKING_PASSWORD": secrets["registry"],
            "PREFECT_API_AUTH_STRING": f"admin:{secrets['prefect']}",
            "PREFECT_SERVER_API_AUTH_STRING": f"admin:{secrets['prefect']}",
        }
        env = stack.enter_context(prefect_server(home, **given))
        deployed = finetune(env, "deploy", str(config))
        assert deployed.returncode == 0, deployed.stderr
        stack.enter_context(process(worker_command("cpu"), env, home / "worker.log"))
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "deployment", "run", "pipeline/words", "--watch"],
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{home / 'worker.log'}"
        database = env["PREFECT_API_DATABASE_CONNECTION_URL"].rpartition("/")[2]
        where = "-h", POSTGRES[0], "-p", str(POSTGRES[1])
        dump = subprocess.run(["pg_dump", *where, database], check=True, capture_output=True).stdout
        yield Left(home, env, config, dump, secrets, endpoint.keys)


def test_the_run_used_its_secrets_and_came_to_its_end(left: Left) -> None:
    assert left.keys == {f"Bearer {left.secrets['endpoint']}"}
    for stage in ("ingest", "augment", "report", "register"):
        assert list(left.home.glob(f"store/{stage}/*/manifest.json")), stage


def test_no_file_that_the_run_left_holds_a_secret(left: Left) -> None:
    """Manifests, report, MLflow, replies, servers' logs, what Prefect keeps beside its database."""
    files = [path for path in left.home.rglob("*") if path.is_file()]
    assert {"manifest.json", "report.md", "mlflow.db", "worker.log", "server.log"} <= {
        path.name for path in files
    }
    found = [
        f"{name}: {path.relative_to(left.home)}"
        for path in files
        for name, secret in left.secrets.items()
        if secret.encode() in path.read_bytes()
    ]
    assert found == []


def test_prefects_database_with_its_logs_parameters_and_artifacts_holds_no_secret(left: Left) -> None:
    assert b"augment" in left.database
    assert [name for name, secret in left.secrets.items() if secret.encode() in left.database] == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/data.jsonl?token={}", "http://u:{}@127.0.0.1:9/data.jsonl"]
)
def test_a_secret_in_a_sources_url_is_refused_and_not_repeated(left: Left, url: str) -> None:
    secret = f"given-{uuid.uuid4().hex}"
    source = json.dumps([{"path": url.format(secret)}])
    for command in ("run", "plan", "deploy"):
        refused = finetune(left.env, command, str(left.config), "--set", f"ingest.sources={source}")
        assert refused.returncode == 2
        assert "ingest.sources.0.path" in refused.stderr
        assert secret not in refused.stderr + refused.stdout
    assert not [path for path in left.home.rglob("*.json") if secret in path.read_text()]
