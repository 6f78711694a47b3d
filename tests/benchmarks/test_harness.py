"""The harness: the report's shape, ratios that read the same way, children and peers that may fail."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness import Case, Peer, Session, Skipped, child, main, measured

SHAPE = {"name", "peer", "ours", "theirs", "unit", "ratio", "target"}


def three(session: Session) -> Iterator[Case]:
    """Three cases."""
    yield Case("speed", 300.0, "rows/s", "other", 100.0, target=2)
    yield Case("memory", 200.0, "MiB", target=100, less_is_better=True)
    yield Case("gone", None, "rows/s", "absent", skipped=f"quick is {session.quick}")


def test_json_is_one_document_of_the_agreed_shape(capsys: pytest.CaptureFixture[str]) -> None:
    main("three", three, arguments=["--json", "--quick"])
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"machine", "versions", "cases"}
    assert {"cpu", "cores", "memory_gib", "date"} <= set(told["machine"])
    assert {"python", "finetune-flows", "numpy"} <= set(told["versions"])
    assert [set(case) - {"skipped"} for case in told["cases"]] == [SHAPE] * 3
    assert [case["ratio"] for case in told["cases"]] == [3.0, None, None]
    assert [case.get("skipped") for case in told["cases"]] == [None, None, "quick is True"]


def test_the_table_shows_every_case_and_whether_its_aim_is_met(capsys: pytest.CaptureFixture[str]) -> None:
    main("three", three, arguments=[])
    lines = capsys.readouterr().out.splitlines()
    (speed,), (memory,), (gone,) = (
        [line for line in lines if line.startswith(name)] for name in ("speed", "memory", "gone")
    )
    assert speed.split()[-1] == "yes"
    assert memory.split()[-1] == "no"
    assert "skipped: quick is False" in gone


def test_a_switch_of_its_own_reaches_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    def told(session: Session) -> Iterator[Case]:
        """Nothing but the switch."""
        yield Case("full", float(session.flags["full"]), "yes or no")

    main("told", told, {"full": "everything"}, ["--json", "--full"])
    assert json.loads(capsys.readouterr().out)["cases"][0]["ours"] == 1.0


def test_the_ratio_says_how_many_times_better_ours_is() -> None:
    assert Case("a", 30.0, "s", "b", 60.0, less_is_better=True).ratio == 2.0
    assert Case("a", 30.0, "rows/s", "b", 60.0).ratio == 0.5
    assert Case("a", 0.0, "rows", "b", 60.0, less_is_better=True).ratio is None
    assert Case("a", 30.0, "rows/s", "b", 60.0, target=0.6).met is False
    assert Case("a", 30.0, "rows/s", target=20).met is True
    assert Case("a", 0.0, "wrong", target=0, less_is_better=True).met is True


def test_a_peer_that_cannot_be_installed_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_BENCH", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Skipped, match=r"no-such-package==1\.0 cannot be installed: .*no-such-package"):
        Session().run("json.tool", peer=Peer("nobody", ("no-such-package==1.0",)))
    assert not (tmp_path / "nobody" / "installed.txt").exists()


def test_quick_does_not_install_what_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_BENCH", str(tmp_path))
    with pytest.raises(Skipped, match="without --quick installs it"):
        Peer("vast", ("vast==1.0",), small=False).python(quick=True)


def test_a_child_says_its_last_line_and_has_the_threads_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import os, json\nprint('noise')\nprint(json.dumps(os.environ['OMP_NUM_THREADS']))"
    (tmp_path / "speaks.py").write_text(source)
    (tmp_path / "breaks.py").write_text("raise ValueError('no such thing')")
    monkeypatch.chdir(tmp_path)
    assert child(Path(sys.executable), "speaks", threads=2) == "2"
    with pytest.raises(Skipped, match="breaks now failed: ValueError: no such thing"):
        child(Path(sys.executable), "breaks", "now")


def test_a_measurement_is_a_median_and_leaves_out_what_comes_before() -> None:
    done: list[str] = []
    told = measured(lambda: done.append("work") or len(done), 3, lambda: done.append("before"))
    assert done == ["before", "work"] * 3
    assert told["result"] == 6
    assert sorted(told["times"])[1] == told["seconds"]
    assert told["peak_mib"] > 1
