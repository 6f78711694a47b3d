"""One Prefect server on PostgreSQL with a CPU worker, for all tests of this directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.services.api import Api
from tests.services.servers import (
    environment,
    finetune,
    free_port,
    own_database,
    prefect_server,
    prefect_server_environment,
    process,
    worker_command,
)

CONFIG = """
name: words
initialize: {{hidden_size: 32, intermediate_size: 64, layers: 1, heads: 2, vocab_size: 600}}
ingest: {{sources: [{{path: {data}}}]}}
filter: {{web_rules: none}}
split: {{minimum: 1}}
operations: {{run: "0 2 * * *", drift: "0 1 * * *", approve: true}}
"""


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
    data = home / "data.jsonl"
    words = "north south east west spring summer autumn winter stone river cloud field".split()
    rows = (
        {
            "instruction": f"What follows {word} {i}?",
            "output": f"After {word} comes {words[i % 12]}, number {i}.",
        }
        for i, word in enumerate(words * 4)
    )
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = home / "words.yaml"
    config.write_text(CONFIG.format(data=data))
    with own_database() as database:
        port = free_port()
        env = environment(home, **prefect_server_environment(database, port))
        with prefect_server(env, port, home / "server.log"):
            deployed = finetune(env, "deploy", str(config), "--json")
            assert deployed.returncode == 0, deployed.stderr
            with process(worker_command("cpu", "--limit", "2"), env, home / "worker.log"):
                yield Team(env, Api(env["PREFECT_API_URL"]), config, home, deployed.stdout)
