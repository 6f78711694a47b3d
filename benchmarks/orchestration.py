"""Orchestration: what it costs that ten stages are known, found and built, against DVC, Metaflow and Prefect.

Everything is timed from outside, as a person waits for it: a process from its start to its end, in a new
directory, stages that write a few bytes. *Up to date* is a run in which nothing is to be done. *Overhead per
stage* is a run that builds all ten, less a run that builds the first, by nine.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, Peer, Session, Skipped, main, root
from benchmarks.orchestration_peers import STAGES, metaflow_source

DVC = Peer("dvc", ("dvc==3.67.1",))
METAFLOW = Peer("metaflow", ("metaflow==2.19.39", "setuptools<81"))
POSTGRES = ("127.0.0.1", 5432)
START_SECONDS = 180
HISTORY = 1000
"""Runs that the server has, where the UI's page of runs is timed again."""


def cases(session: Session) -> Iterator[Case]:
    """Up-to-date runs and the overhead per stage of ten stages."""
    repeats = 3 if session.quick else 7
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        place = Path(scratch)
        ours = _Ours(place / "ours", {})
        ours.run("0")
        up_to_date = _median(lambda: ours.run("0"), repeats)
        yield from _dvc(session, place / "dvc", up_to_date, repeats)
        for name, database in _databases(stack):
            try:
                url = stack.enter_context(_server(place / name, database))
            except Skipped as reason:
                yield Case(
                    f"per stage, server on {name}", None, "s", skipped=str(reason), less_is_better=True
                )
                continue
            yield from _served(place / f"ours-{name}", name, url, up_to_date, repeats)
            yield _history(url, name, 100 if session.quick else HISTORY, repeats)
        yield from _temporary(place / "temporary")
        yield from _metaflow(session, place / "metaflow", up_to_date, repeats)


def _dvc(session: Session, place: Path, ours: float, repeats: int) -> Iterator[Case]:
    name = f"up to date, {STAGES} stages"
    try:
        dvc = DVC.python(session.quick).parent / "dvc"
    except Skipped as reason:
        yield Case(name, ours, "s", "dvc", target=0.5, skipped=str(reason), less_is_better=True)
        return
    session.versions["dvc"] = DVC.requirements[0]
    place.mkdir()
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    for command in (["git", "init", "-q"], [dvc, "init", "-q"]):
        _run(command, place, env)
    (place / "s0").write_text("0")
    stages = (
        f"  stage_{i}:\n    cmd: cp s{i} s{i + 1} && printf x >> s{i + 1}\n"
        f"    deps: [s{i}]\n    outs: [s{i + 1}]\n"
        for i in range(STAGES)
    )
    (place / "dvc.yaml").write_text("stages:\n" + "".join(stages))
    built = _time(lambda: _run([dvc, "repro", "-q"], place, env))
    theirs = _median(lambda: _run([dvc, "repro"], place, env), repeats)
    yield Case(name, ours, "s", "dvc repro", theirs, target=0.5, less_is_better=True)
    session.versions["dvc per stage (s)"] = f"{(built - theirs) / STAGES:.3f}"


def _served(place: Path, name: str, url: str, up_to_date: float, repeats: int) -> Iterator[Case]:
    mine = _Ours(place, {"PREFECT_API_URL": url})
    numbers = iter(range(1, 1000))
    full = _median(lambda: mine.run(str(next(numbers))), repeats)
    yield Case(f"all {STAGES} built, server on {name}", full, "s", less_is_better=True)
    one = _median(lambda: mine.run(str(next(numbers)), "stage_0"), repeats)
    per_stage = (full - one) / (STAGES - 1)
    yield Case(f"overhead per stage, server on {name}", per_stage, "s", target=0.1, less_is_better=True)
    env = {**os.environ, **_quiet(place), "PREFECT_API_URL": url}
    script = [sys.executable, "-m", "benchmarks.orchestration_peers"]
    words = iter(range(1000))
    plain = _median(lambda: _run([*script, str(next(words))], root(), env), repeats)
    yield Case(
        f"all {STAGES} built, server on {name}",
        full,
        "s",
        "Prefect, result cache",
        plain,
        less_is_better=True,
    )
    again = _median(lambda: _run([*script, "0"], root(), env), repeats)
    yield Case(
        f"up to date, {STAGES} stages",
        up_to_date,
        "s",
        f"Prefect, result cache on {name}",
        again,
        less_is_better=True,
    )


def _history(url: str, name: str, count: int, repeats: int) -> Case:
    """Time what the page of runs asks of the server, before and after ``count`` more runs."""
    few = _median(lambda: _runs_page(url), repeats)
    flow = _ask(f"{url}/flows/", {"name": "history"})["id"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: _finished_run(url, flow), range(count)))
    many = _median(lambda: _runs_page(url), repeats)
    title = f"the UI's page of runs, {count:,} more of them, server on {name}"
    return Case(title, many, "s", "as few as the cases above made", few, target=0.8, less_is_better=True)


def _runs_page(url: str) -> None:
    """Ask what Prefect's UI asks for its page of runs."""
    week = {"start_time": {"after_": (datetime.now(UTC) - timedelta(days=7)).isoformat()}}
    newest = {"flow_runs": week, "sort": "START_TIME_DESC", "limit": 100}
    found = _ask(f"{url}/flow_runs/paginate", newest | {"page": 1})["results"]
    _ask(f"{url}/ui/flow_runs/history", newest | {"offset": 0})
    _ask(f"{url}/flow_runs/count", {})
    _ask(f"{url}/ui/flow_runs/count-task-runs", {"flow_run_ids": [run["id"] for run in found]})


def _finished_run(url: str, flow: str) -> None:
    run = _ask(f"{url}/flow_runs/", {"flow_id": flow, "state": {"type": "PENDING"}})["id"]
    for state in ("RUNNING", "COMPLETED"):
        _ask(f"{url}/flow_runs/{run}/set_state", {"state": {"type": state}})


def _ask(url: str, body: Mapping[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            # So a server says that its SQLite is locked by another request.
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > until:
                raise
        time.sleep(0.2)


def _temporary(place: Path) -> Iterator[Case]:
    mine = _Ours(place, {})
    yield Case(
        f"all {STAGES} built, temporary server", _time(lambda: mine.run("0")), "s", less_is_better=True
    )


def _metaflow(session: Session, place: Path, ours: float, repeats: int) -> Iterator[Case]:
    name = f"up to date, {STAGES} stages"
    try:
        python = METAFLOW.python(session.quick)
    except Skipped as reason:
        yield Case(name, ours, "s", "metaflow", skipped=str(reason), less_is_better=True)
        return
    session.versions["metaflow"] = METAFLOW.requirements[0]
    place.mkdir()
    (place / "ten.py").write_text(metaflow_source())
    env = {**os.environ, "USERNAME": "bench", "METAFLOW_HOME": str(place), "HOME": str(place)}
    built = _time(lambda: _run([python, "ten.py", "--quiet", "run"], place, env))
    theirs = _median(
        lambda: _run([python, "ten.py", "--quiet", "resume", "end"], place, env), min(repeats, 3)
    )
    yield Case(name, ours, "s", "metaflow resume end", theirs, less_is_better=True)
    session.versions["metaflow run of all (s)"] = f"{built:.1f}"


class _Ours:
    """The ten stages in a directory of their own."""

    def __init__(self, place: Path, more: Mapping[str, str]) -> None:
        place.mkdir(parents=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FINETUNE_", "PREFECT_"))}
        self.env = {**kept, **_quiet(place), "FINETUNE_STORE": str(place / "store"), **more}

    def run(self, *arguments: str) -> None:
        _run([sys.executable, "-m", "benchmarks.orchestration_ours", *arguments], root(), self.env)


def _quiet(place: Path) -> dict[str, str]:
    place.mkdir(parents=True, exist_ok=True)
    return {
        "PYTHONPATH": str(root()),
        "PREFECT_HOME": str(place / "prefect"),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "DO_NOT_TRACK": "1",
    }


def _databases(stack: ExitStack) -> Iterator[tuple[str, str | None]]:
    yield "SQLite", None
    try:
        socket.create_connection(POSTGRES, timeout=2).close()
    except OSError:
        return
    if shutil.which("createdb"):
        name, where = f"bench_{uuid.uuid4().hex[:8]}", ["-h", POSTGRES[0]]
        subprocess.run(["createdb", *where, name], check=True)
        stack.callback(subprocess.run, ["dropdb", *where, "--force", name], check=False)
        yield "PostgreSQL", f"postgresql+asyncpg://root@{POSTGRES[0]}:{POSTGRES[1]}/{name}"


@contextmanager
def _server(place: Path, database: str | None) -> Iterator[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    env = {**os.environ, **_quiet(place), "PREFECT_API_URL": url}
    if database:
        env["PREFECT_API_DATABASE_CONNECTION_URL"] = database
    (place / "prefect").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
                break
            time.sleep(0.5)
        else:
            raise Skipped("Prefect's server did not start")
        yield url
    finally:
        server.kill()
        server.wait()


def _run(command: list[str | Path], where: Path, env: Mapping[str, str]) -> None:
    done = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skipped(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-300:]}")


def _time(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _median(work: Callable[[], None], repeats: int) -> float:
    return statistics.median(_time(work) for _ in range(repeats))


if __name__ == "__main__":
    main("orchestration", cases)
