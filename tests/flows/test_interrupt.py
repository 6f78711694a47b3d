"""Ctrl-C in a terminal: everything in the foreground gets the signal, and one line says what became of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.servers import environment, finetune, wait_for
from tests.services.words import write_config

pytestmark = pytest.mark.slow


def test_ctrl_c_leaves_one_line_and_what_is_built(tmp_path: Path) -> None:
    env = environment(tmp_path, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="600")
    config, out = write_config(tmp_path), tmp_path / "out"
    with out.open("wb") as file:
        command = [sys.executable, "-m", "flows", "run", str(config)]
        running = subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_for(
            lambda: "\nnormalize      " in out.read_text().partition("  built")[2], 900, "the first stages"
        )
        before = len(out.read_text())
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(120) == 130
    finally:
        running.kill()
    said = out.read_text()[before:].strip().splitlines()
    assert said[-1] == "interrupted; what is built is kept, run again to go on"
    assert all("  built  " in line for line in said[:-1]), "no other word of it"
    statuses = {
        line.split()[0]: line.split()[1] for line in finetune(env, "plan", str(config)).stdout.splitlines()
    }
    assert statuses["normalize"] == "cached"
