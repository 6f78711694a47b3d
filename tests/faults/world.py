"""A team's servers that a test may break: a PostgreSQL cluster, a Prefect server and workers of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.counting import CountConfig, CountingConfig
from tests.services.api import Api
from tests.services.servers import (
    ROOT,
    answers,
    end,
    environment,
    finetune,
    free_port,
    wait_for,
    worker_command,
)

POSTGRES_BIN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
DEPLOY = """
    from prefect.client.orchestration import get_client
    from flows.deployments import Planned, RUN_TAG, TAG, _deployment, _schema
    from tests.faults.counting_flow import counting
    with get_client(sync_client=True) as client:
        _deployment(client, Planned("counting", "counting", "tests.faults.counting_flow.counting", "cpu", "",
                                    {}, _schema(counting), (TAG, RUN_TAG)))
"""


class Cluster:
    """A PostgreSQL cluster in a directory of its own."""

    def __init__(self, home: Path) -> None:
        if not POSTGRES_BIN:
            pytest.skip("PostgreSQL's programs (initdb, pg_ctl) are not installed")
        self.port, self.data = free_port(), home / "pgdata"
        self.who = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        home.chmod(0o777)
        self._run("initdb", "-D", str(self.data), "--auth", "trust", "--username", "root", "--no-sync")
        self.start()
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "root", "prefect")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self.who, str(POSTGRES_BIN[-1] / program), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/tmp",
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -c unix_socket_directories= -c max_connections=200"
        self._run("pg_ctl", "-D", str(self.data), "-o", options, "-l", f"{self.data}.log", "-w", "start")

    def stop(self) -> None:
        """Stop as a crash would: no shutdown, recovery on the next start."""
        self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    @property
    def url(self) -> str:
        return f"root@127.0.0.1:{self.port}/prefect"


@dataclass
class World:
    """Everything that a test may break, and the way to ask what became of it."""

    home: Path
    cluster: Cluster
    port: int
    env: dict[str, str]
    api: Api
    stack: ExitStack
    server: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_server(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        self.server = self.start([*command, "--port", str(self.port)], self.env, "server.log")
        wait_for(lambda: answers(f"{self.api.url}/health"), said=f"Prefect's server, {self.home}")

    def start(self, command: list[str], env: dict[str, str], log: str) -> subprocess.Popen[bytes]:
        with (self.home / log).open("ab") as out:
            started = subprocess.Popen(
                command, env=env, stdout=out, stderr=out, cwd=ROOT, start_new_session=True
            )
        self.stack.callback(kill_tree, started)
        return started

    def start_worker(self, pool: str = "cpu", **more: str) -> subprocess.Popen[bytes]:
        command = worker_command(pool, "--limit", more.pop("limit", "1"))
        worker = self.start(command, {**self.env, **more}, f"worker-{pool}.log")
        self.workers.append(worker)
        return worker

    def stop_workers(self) -> None:
        for worker in self.workers:
            kill_tree(worker)
        self.workers.clear()

    def config(self, name: str, **count: Any) -> CountingConfig:
        ledger = str(self.home / f"{name}.ledger")
        return CountingConfig(name=name, count=CountConfig(name=name, ledger=ledger, **count))

    def begin(self, config: CountingConfig) -> str:
        return self.api.start("counting/counting", config=config.model_dump(mode="json"))

    def ledger(self, name: str) -> list[str]:
        path = self.home / f"{name}.ledger"
        return path.read_text().splitlines() if path.exists() else []

    def counted(self, config: CountingConfig, least: int) -> None:
        """Wait until the count's checkpoint has come so far."""

        def far() -> bool:
            files = (self.home / "store" / ".work").glob("count-*/counted")
            return any(len(file.read_text().split()) >= least for file in files)

        wait_for(far, 180, f"{config.name} to count to {least}")

    def states(self, run: str) -> list[str]:
        found = self.api.ask(f"/flow_run_states/?flow_run_id={run}")
        return [state["name"] for state in sorted(found, key=lambda state: state["timestamp"])]

    def require_whole(self, config: CountingConfig) -> None:
        """The artifacts are there, whole, and nothing lies about."""
        kept = [path.read_text().split() for path in (self.home / "store" / "count").glob("*/kept.txt")]
        assert [str(number) for number in range(config.count.upto)] in kept
        checked = finetune(self.env, "verify", "--json")
        assert json.loads(checked.stdout)["damaged"] == [], checked.stderr
        scratch = {path.name.split(".")[0] for path in (self.home / "store" / ".scratch").glob("count-*")}
        assert not scratch & {f"count-{path.name}" for path in (self.home / "store" / "count").iterdir()}


def kill_tree(started: subprocess.Popen[bytes]) -> None:
    """Kill a process and all its descendants at once, as a machine that loses its power does."""
    try:
        there = psutil.Process(started.pid)
        family = [*there.children(recursive=True), there]
    except psutil.NoSuchProcess:
        family = []
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    started.wait(20)


@contextmanager
def world() -> Iterator[World]:
    """Start everything; a worker is each test's own affair."""
    home = Path(tempfile.mkdtemp(prefix="faults-"))
    with ExitStack() as stack:
        cluster = Cluster(home)
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        stack.callback(cluster.stop)
        port = free_port()
        env = environment(
            home,
            PREFECT_API_DATABASE_CONNECTION_URL=f"postgresql+asyncpg://{cluster.url}",
            PREFECT_API_URL=f"http://127.0.0.1:{port}/api",
            PREFECT_WORKER_QUERY_SECONDS="5",
        )
        made = World(home, cluster, port, env, Api(env["PREFECT_API_URL"]), stack)
        made.start_server()
        deployed = finetune(env, "deploy")
        assert deployed.returncode == 0, deployed.stderr
        import textwrap

        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(DEPLOY)],
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        yield made


__all__ = ["World", "end", "kill_tree", "signal", "world"]
