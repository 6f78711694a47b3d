"""What an estimate takes for granted is said, and only that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app

CONFIG = Path(__file__).resolve().parents[2] / "conf" / "quickstart.yaml"
SAID = {"conversations": ["--conversations", "300"], "memory": ["--memory", "80"]}


@pytest.mark.parametrize("given", [(), ("conversations",), ("memory",), ("conversations", "memory")])
def test_what_the_call_leaves_out_is_said_to_be_assumed(given: tuple[str, ...]) -> None:
    options = [option for name in given for option in SAID[name]]
    lines = CliRunner().invoke(app, ["estimate", str(CONFIG), *options]).stdout.splitlines()
    told = [line for line in lines if line.startswith("Assumed")]
    missing = {"conversations": "10,000 conversations", "memory": "a GPU of 24 GB"}
    assert len(told) == (len(given) < 2)
    for name, words in missing.items():
        assert any(words in line and f"--{name}" in line for line in told) == (name not in given)
    document = CliRunner().invoke(app, ["estimate", str(CONFIG), *options, "--json"]).stdout
    assert set(json.loads(document)["assumed"]) == set(missing) - set(given)
