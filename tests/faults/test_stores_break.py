"""Disks fill, buckets refuse, bytes rot, clocks jump: nothing partial stays, and the next try completes."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests import loopback
from tests.services.servers import ROOT, bucket, environment, finetune

pytestmark = [pytest.mark.services, pytest.mark.slow]
RUN = """
    import json, sys
    from flows.call import Call, open_store
    from flows.run import run
    from flows.screen import Screen
    from pipeline_lib.core.errors import FinetuneError
    from tests.faults.counting import CountConfig, CountingConfig, process
    config = CountingConfig(count=CountConfig(**json.loads(sys.argv[1])))
    try:
        outcome = run(Call(process, config, open_store()), Screen(lines=False))
        told = {step.name: [step.status, step.artifact.digest] for step in outcome.steps}
    except FinetuneError as error:
        told = {"error": f"{type(error).__name__}: {error}"}
    json.dump(told, sys.stdout)
"""


def run(env: dict[str, str], where: Path = ROOT, **count: Any) -> dict[str, Any]:
    """Run the counting process once, in a process of its own; a mirror of a bucket lies below ``where``."""
    import textwrap

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN), json.dumps(count)],
        env={**env, "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180"},
        cwd=where,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """Mount a file system of ``size`` in memory, where this machine lets us."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here ({done.stderr.decode().strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_leaves_nothing_partial_and_once_there_is_room_the_run_completes(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        env = environment(tmp_path, FINETUNE_STORE=str(disk / "store"))
        told = run(env, upto=5, size=16)
        assert "no space left on the disk" in told["error"]
        assert not list((disk / "store").glob("count/*"))
        assert not list((disk / "store" / ".scratch").glob("*"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        told = run(env, upto=5, size=16)
        assert {name: status for name, (status, _) in told.items()} == {"count": "built", "double": "built"}
        assert json.loads(finetune(env, "verify", "--json").stdout)["damaged"] == []


@pytest.mark.parametrize("damage", ["truncated", "one bit", "gone"])
def test_damage_is_found_and_repaired_by_building_the_same_bytes_again(tmp_path: Path, damage: str) -> None:
    env = environment(tmp_path)
    before = run(env, upto=50)
    victim = next((tmp_path / "store" / "count").glob("*/kept.txt"))
    data = victim.read_bytes()
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(data[:20] if damage == "truncated" else bytes([data[0] ^ 1]) + data[1:])
    found = finetune(env, "verify", "--json")
    assert found.returncode == 1
    assert [Path(one["path"]).parent.name for one in json.loads(found.stdout)["damaged"]] == ["count"]
    assert finetune(env, "verify", "--repair").returncode == 1
    after = run(env, upto=50)
    assert {name: status for name, (status, _) in after.items()} == {"count": "built", "double": "cached"}
    assert {name: digest for name, (_, digest) in after.items()} == {
        name: digest for name, (_, digest) in before.items()
    }
    assert finetune(env, "verify").returncode == 0


FAKETIME = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]


@pytest.mark.parametrize("jump", ["-400d", "+400d"])
def test_a_clock_that_jumped_changes_no_artifact_and_hides_none(tmp_path: Path, jump: str) -> None:
    if not FAKETIME:
        pytest.skip("libfaketime is not installed (apt-get install libfaketime)")
    here = environment(tmp_path)
    there = here | {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME": jump}
    before = run(here, upto=20)
    assert run(there, upto=20) == {name: ["cached", digest] for name, (_, digest) in before.items()}
    jumped = run(there, upto=21)
    assert {name: status for name, (status, _) in jumped.items()} == {"count": "built", "double": "built"}
    assert run(here, upto=21) == {name: ["cached", digest] for name, (_, digest) in jumped.items()}


class Refusing(BaseHTTPRequestHandler):
    """A proxy that answers every third request with 503 Slow Down, as a busy bucket does."""

    upstream: ClassVar[str] = ""
    requests: ClassVar[int] = 0
    refused: ClassVar[int] = 0
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        kind = type(self)
        kind.requests += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if kind.requests % 3 == 0:
            kind.refused += 1
            self._reply(503, {"Content-Type": "application/xml"}, b"<Error><Code>SlowDown</Code></Error>")
            return
        request = urllib.request.Request(self.upstream + self.path, body or None, method=self.command)
        for name, value in self.headers.items():
            if name.lower() not in ("host", "content-length", "connection", "expect"):
                request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                self._reply(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                self._reply(error.code, dict(error.headers), error.read())

    def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def refusing_bucket(home: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of a store on moto's S3 server behind the proxy."""
    with bucket(home) as (straight, keys):
        Refusing.upstream, Refusing.requests, Refusing.refused = straight, 0, 0
        with loopback.serving(Refusing) as address:
            yield keys | {"AWS_ENDPOINT_URL": address}


def test_a_bucket_that_refuses_every_third_request_ends_with_a_whole_store(tmp_path: Path) -> None:
    with refusing_bucket(tmp_path) as bucket:
        one = run(environment(tmp_path / "one") | bucket, tmp_path / "one", upto=30, size=2)
        assert {name: status for name, (status, _) in one.items()} == {"count": "built", "double": "built"}
        other = run(environment(tmp_path / "two") | bucket, tmp_path / "two", upto=30, size=2)
        assert {name: status for name, (status, _) in other.items()} == {
            "count": "cached",
            "double": "cached",
        }
        assert {n: d for n, (_, d) in one.items()} == {n: d for n, (_, d) in other.items()}
        assert Refusing.refused > 10, "every third request was refused"
