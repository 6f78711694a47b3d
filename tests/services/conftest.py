"""One Prefect server on PostgreSQL with a CPU worker, for all tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.services.api import Api
from tests.services.servers import finetune, prefect_server, process, worker_command
from tests.services.words import write_config

OPERATIONS = {"run": "0 2 * * *", "drift": "0 1 * * *", "approve": True}


@dataclass(frozen=True)
class Team:
    """A server with everything deployed, a worker of the CPU pool, and a config."""

    env: dict[str, str]
    api: Api
    config: Path
    home: Path
    deployed: str


@pytest.fixture(scope="session")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    home = tmp_path_factory.mktemp("team")
    config = write_config(home, operations=OPERATIONS)
    with prefect_server(home) as env:
        deployed = finetune(env, "deploy", str(config), "--json")
        assert deployed.returncode == 0, deployed.stderr
        with process(worker_command("cpu", "--limit", "2"), env, home / "worker.log"):
            yield Team(env, Api(env["PREFECT_API_URL"]), config, home, deployed.stdout)
