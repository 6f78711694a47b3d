"""Ctrl-C and SIGTERM, which all processes of a run may get: one line says what became of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.services.servers import environment, finetune, wait_for
from tests.services.words import write_config

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Going:
    """A run that has built its first stages."""

    process: subprocess.Popen[bytes]
    env: dict[str, str]
    config: Path
    out: Path
    before: int
    """Characters that it had written by then."""

    def ends(self, code: int) -> list[str]:
        """Wait for its end; return the lines that came meanwhile."""
        assert self.process.wait(120) == code
        return self.out.read_text()[self.before :].strip().splitlines()

    def assert_kept(self) -> None:
        done = finetune(self.env, "plan", str(self.config)).stdout.splitlines()
        assert {line.split()[0]: line.split()[1] for line in done}["normalize"] == "cached"


@contextmanager
def going(home: Path) -> Iterator[Going]:
    env = environment(home, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="600")
    config, out = write_config(home), home / "out"
    with out.open("wb") as file:
        command = [sys.executable, "-m", "flows", "run", str(config)]
        running = subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_for(
            lambda: "\nnormalize      " in out.read_text().partition("  built")[2], 900, "the first stages"
        )
        yield Going(running, env, config, out, len(out.read_text()))
    finally:
        running.kill()
        running.wait()


def test_ctrl_c_leaves_one_line_and_what_is_built(tmp_path: Path) -> None:
    with going(tmp_path) as run:
        os.killpg(run.process.pid, signal.SIGINT)
        said = run.ends(130)
    assert said[-1] == "interrupted; what is built is kept, run again to go on"
    assert [line for line in said[:-1] if "  built  " not in line] == []
    run.assert_kept()


@pytest.mark.parametrize("server", ["told too", "gone before"])
def test_sigterm_leaves_one_line_whatever_becomes_of_the_temporary_server(
    server: str, tmp_path: Path
) -> None:
    with going(tmp_path) as run:
        if server == "told too":
            os.killpg(run.process.pid, signal.SIGTERM)
        else:
            os.kill(_server_of(run.process.pid), signal.SIGKILL)
            os.kill(run.process.pid, signal.SIGTERM)
        said = run.ends(143)
    assert said[-1] == "terminated; what is built is kept, run again to go on"
    assert [line for line in said[:-1] if "  built  " not in line] == []
    run.assert_kept()


def _server_of(run: int) -> int:
    """Return the process id of a run's temporary Prefect server."""
    children = Path(f"/proc/{run}/task/{run}/children").read_text().split()
    (server,) = [pid for pid in children if b"uvicorn" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return int(server)
