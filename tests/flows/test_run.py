"""Run: what is there is not built, what changed is, and every run leaves a record of what it used."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from flows.call import account, look
from flows.lines import duration, plan_lines, result_line, size
from flows.run import run
from flows.screen import Screen
from pipeline_lib.core.errors import ConfigError, DataError, ServiceError
from pipeline_lib.core.manifest import Manifest
from pipeline_lib.core.plan import latest_manifests
from pipeline_lib.core.runs import links, new_run, pipeline_of, run_with, runs_of
from pipeline_lib.core.store import Store, link_run
from tests.flows.tiny import GatherConfig, HalveConfig, JudgeConfig, TinyConfig, build, call, tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def statuses(store: Store, config: TinyConfig | None = None, **chosen: Any) -> dict[str, tuple[str, str]]:
    return {step.name: (step.status, step.reason) for step in look(call(store, config, **chosen)).steps}


def test_an_empty_store_must_be_filled_from_the_first_stage_on(store: Store) -> None:
    assert statuses(store) == {
        "gather": ("build", "never built"),
        "halve": ("waits", "depends on gather"),
        "judge": ("waits", "depends on halve"),
    }


def test_the_plan_names_the_field_that_changed_and_leaves_what_came_before(store: Store) -> None:
    build(store, lambda: tiny(TinyConfig()))
    assert statuses(store, TinyConfig(halve=HalveConfig(keep="odd"))) == {
        "gather": ("cached", ""),
        "halve": ("build", "config.keep even -> odd"),
        "judge": ("waits", "depends on halve"),
    }


def test_a_forced_stage_is_planned_though_it_is_there(store: Store) -> None:
    build(store, lambda: tiny(TinyConfig()))
    assert statuses(store, force=frozenset({"halve"}))["halve"] == ("build", "forced")


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ({}, ["gather", "halve", "judge"]),
        ({"only": "halve"}, ["halve"]),
        ({"start": "halve"}, ["halve", "judge"]),
        ({"until": "halve"}, ["gather", "halve"]),
        ({"start": "halve", "until": "halve"}, ["halve"]),
    ],
)
def test_a_selection_is_a_stretch_of_the_process(
    store: Store, chosen: dict[str, str], wanted: list[str]
) -> None:
    assert [step.name for step in look(call(store, **chosen)).asked] == wanted


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"only": "havle"}, "did you mean .halve.?"),
        ({"start": "judge", "until": "gather"}, "comes after"),
        ({"only": "halve", "until": "judge"}, "--only names one stage"),
        ({"only": "halve", "force": frozenset({"gather"})}, "not among the stages asked for"),
    ],
)
def test_a_selection_that_makes_no_sense_is_the_callers_error(
    store: Store, chosen: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        look(call(store, **chosen))


def test_one_stage_alone_needs_what_comes_before_it(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"halve needs the artifact of gather.*--until gather"):
        run(call(store, only="halve"), Screen(lines=False))
    assert not store.root.exists()


@pytest.mark.parametrize(("source", "error"), [("nowhere", DataError), ("hub", ServiceError)])
def test_what_cannot_be_read_stops_the_run_before_anything_is_built(
    store: Store, source: str, error: type[Exception]
) -> None:
    config = TinyConfig(gather=GatherConfig(source=source))
    with pytest.raises(error, match=source):
        run(call(store, config), Screen(lines=False))
    assert not store.root.exists()


def test_a_plan_shows_what_cannot_be_read_and_goes_on(store: Store) -> None:
    here = look(call(store, TinyConfig(gather=GatherConfig(source="nowhere"))))
    there = look(call(store, TinyConfig(gather=GatherConfig(source="hub"))))
    assert (
        [step.status for step in here.steps]
        == [step.status for step in there.steps]
        == ["build", "waits", "waits"]
    )
    assert "nowhere: no such file" in plan_lines(here.steps)[0]
    assert here.broken
    assert not there.broken, "a server may answer another time"


def test_artifacts_are_accounted_for_in_pipeline_order(store: Store) -> None:
    built = build(store, lambda: tiny(TinyConfig()))
    told = account(look(call(store, TinyConfig(halve=HalveConfig(keep="odd")))), store)
    assert list(told) == ["gather", "halve", "judge"]
    assert told["gather"] == {
        "fingerprint": built["gather"].fingerprint,
        "digest": built["gather"].digest,
        "path": str(built["gather"].path),
        "status": "cached",
        "stats": {"read": 6, "kept": 6, "dropped": 0},
    }
    assert told["halve"]["status"] == "missing"
    assert told["halve"]["fingerprint"]
    assert told["judge"] == {
        "fingerprint": None,
        "digest": None,
        "path": None,
        "status": "waits",
        "stats": None,
    }


def test_a_run_that_finds_everything_builds_nothing_and_says_so(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    built = build(store, lambda: tiny(TinyConfig()))
    outcome = run(call(store), Screen())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[:3]] == [
        [name, artifact.fingerprint[:12], "cached"] for name, artifact in built.items()
    ]
    assert lines[3] == "nothing to do"
    assert (outcome.exit_code, outcome.built) == (0, False)


def test_a_run_is_recorded_once_however_often_it_finds_everything(store: Store) -> None:
    built = build(store, lambda: tiny(TinyConfig()))
    first, second = run(call(store), Screen(lines=False)), run(call(store), Screen(lines=False))
    assert first.run == second.run
    assert runs_of(store.root, "tiny") == [first.run]
    assert links(first.run) == {name: artifact.path for name, artifact in built.items()}  # type: ignore[arg-type]


def test_a_closed_gate_ends_the_run_with_one_and_its_reason_even_from_the_store(store: Store) -> None:
    config = TinyConfig(judge=JudgeConfig(least=9))
    build(store, lambda: tiny(config))
    outcome = run(call(store, config), Screen(lines=False))
    assert outcome.exit_code == 1
    assert outcome.closed == ("3 numbers left, 9 needed",)
    assert run(call(store, config, until="halve"), Screen(lines=False)).exit_code == 0


def test_runs_of_one_pipeline_are_told_from_those_of_a_like_name(store: Store) -> None:
    names = [new_run(store.root, name) for name in ("tiny", "tiny-2", "tiny", "tiny-20200101-000000")]
    assert len(set(names)) == 4
    assert {pipeline_of(run) for run in runs_of(store.root)} == {"tiny", "tiny-2", "tiny-20200101-000000"}
    assert [run.name for run in runs_of(store.root, "tiny")] == [names[2], names[0]]


def test_a_run_is_found_by_what_it_used(store: Store) -> None:
    built = build(store, lambda: tiny(TinyConfig()))
    run_path = link_run(store, new_run(store.root, "tiny"), built)
    assert run_with(store.root, "tiny", {"halve": built["halve"]}) == run_path
    assert run_with(store.root, "tiny", {"other": built["halve"]}) is None
    assert latest_manifests(store, "tiny")["halve"] == Manifest.read(built["halve"].path / "manifest.json")


def test_a_line_reads_as_the_interface_says(store: Store) -> None:
    build(store, lambda: tiny(TinyConfig()))
    step = look(call(store)).steps[1]
    assert result_line(step, 11) == f"halve        {step.fingerprint[:12]}  cached  kept 3  dropped 3"


def test_times_and_sizes_read_as_a_person_says_them() -> None:
    assert [duration(s) for s in (0.04, 99.94, 100, 125.4, 3599.6, 12_000)] == [
        "0.0 s",
        "99.9 s",
        "1 min 40 s",
        "2 min 05 s",
        "1 h 00 min",
        "3 h 20 min",
    ]
    assert [size(n) for n in (0, 999, 1000, 123_456, 5_000_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "123 kB",
        "5.0 GB",
    ]


STORY = """
    import json, sys
    from pathlib import Path
    from flows.run import run
    from flows.screen import Screen
    from pipeline_lib.core.runs import runs_of, links
    from pipeline_lib.core.store import Store
    from tests.flows.tiny import GatherConfig, HalveConfig, TinyConfig, call

    store = Store(Path("store"))
    def told(config=None, **chosen):
        outcome = run(call(store, config, **chosen), Screen(lines=False))
        return {step.name: step.status for step in outcome.steps}
    story = {
        "first": told(),
        "forced": told(force=frozenset({"gather"})),
        "same bytes": told(TinyConfig(halve=HalveConfig(note="x"))),
        "other bytes": told(TinyConfig(halve=HalveConfig(keep="odd")), until="halve"),
    }
    try:
        told(TinyConfig(gather=GatherConfig(upto=3, fail=True)))
    except Exception as error:
        story["failed"] = f"{type(error).__name__}: {error}"
    try:
        told(TinyConfig(gather=GatherConfig(upto=4)), until="gather")
    finally:
        story["runs"] = [sorted(links(found)) for found in runs_of(store.root, "tiny")]
    json.dump(story, sys.stdout)
"""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Several runs under Prefect in one process: its temporary server takes seconds to start."""
    import os

    home = tmp_path_factory.mktemp("story")
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("FINETUNE_", "PREFECT_", "MLFLOW_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STORY)],
        cwd=home,
        env={**kept, "PYTHONPATH": str(ROOT), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_prefect_builds_what_is_not_there(story: tuple[dict[str, Any], str]) -> None:
    assert story[0]["first"] == dict.fromkeys(("gather", "halve", "judge"), "built")


def test_a_stage_rebuilt_to_the_same_bytes_rebuilds_nothing_after_it(
    story: tuple[dict[str, Any], str],
) -> None:
    assert story[0]["forced"] == {"gather": "built", "halve": "cached", "judge": "cached"}
    assert story[0]["same bytes"] == {"gather": "cached", "halve": "built", "judge": "cached"}


def test_a_run_ends_with_the_last_stage_that_is_asked_for(story: tuple[dict[str, Any], str]) -> None:
    assert story[0]["other bytes"] == {"gather": "cached", "halve": "built"}


def test_a_failing_stage_is_one_named_error(story: tuple[dict[str, Any], str]) -> None:
    assert story[0]["failed"] == "StageError: gather failed: ValueError: the numbers have run out"


def test_every_run_that_used_something_is_recorded_and_a_failed_one_only_with_what_it_has(
    story: tuple[dict[str, Any], str],
) -> None:
    assert story[0]["runs"] == [["gather"], ["gather", "halve"], *[["gather", "halve", "judge"]] * 3]


def test_prefect_writes_nothing_of_its_own(story: tuple[dict[str, Any], str]) -> None:
    assert [line for line in story[1].splitlines() if not line.startswith(("gather", "halve", "judge"))] == []
