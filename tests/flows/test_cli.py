"""The command as a shell sees it: exit codes, streams, and what an up-to-date pipeline does not start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.curate import curate
from flows.upkeep import prune, verify
from pipeline_lib.config import load
from pipeline_lib.core.artifact import Artifact
from pipeline_lib.core.runs import new_run
from pipeline_lib.core.store import Store, link_run
from tests.flows.tiny import TinyConfig, build, tiny

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch",
    "prefect",
    "mlflow",
    "pandas",
    "pyarrow",
    "numpy",
    "numba",
    "transformers",
    "scipy",
    "rich.progress",
)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    questions = [
        {"instruction": f"What is {n} and {n}?", "output": f"{n} and {n} make {2 * n}, as is known."}
        for n in range(60)
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, questions)))
    blocks = {"name": "sums", "base_model": {"source": "owner/model", "revision": "0" * 40}, "evaluate": None}
    path = tmp_path / "sums.yaml"
    path.write_text(
        yaml.safe_dump({**blocks, "ingest": {"sources": [{"path": str(tmp_path / "data.jsonl")}]}})
    )
    return path


def finetune(*arguments: str | Path, imports: bool = False) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        *(["-X", "importtime"] if imports else []),
        "-m",
        "flows",
        *map(str, arguments),
    ]
    env = {**os.environ, "COLUMNS": "110", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=120
    )


def the_store() -> Store:
    return Store(Path(os.environ["FINETUNE_STORE"]))


def test_an_up_to_date_run_builds_nothing_and_starts_nothing_heavy(conf: Path) -> None:
    config = load(conf)
    build(the_store(), lambda: curate(config), until="normalize")
    done = finetune("run", conf, "--until", "normalize", imports=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "nothing to do" in done.stdout
    imported = {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "flows.run" in imported
    assert imported.isdisjoint(HEAVY)


def test_a_plan_is_one_json_document_and_starts_nothing_heavy(conf: Path) -> None:
    done = finetune("plan", conf, "--json", imports=True)
    assert done.returncode == 0, done.stderr[-2000:]
    planned = json.loads(done.stdout)
    assert planned["stages"]["ingest"] == {
        "status": "build",
        "reason": "never built",
        "notice": "",
        "fingerprint": planned["stages"]["ingest"]["fingerprint"],
    }
    assert planned["to_build"][0] == "ingest"
    imported = {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert imported.isdisjoint(HEAVY)


def test_a_wrong_config_ends_with_two_and_says_which_key_was_meant(conf: Path) -> None:
    done = finetune("plan", conf, "--set", "deduplicate.treshold=0.7")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"error: {conf}: deduplicate.treshold: unknown key; did you mean 'threshold'?"
    ]


def test_a_missing_file_ends_the_run_with_one_before_anything_is_built(conf: Path) -> None:
    done = finetune("run", conf, "--set", "ingest.sources=[{path: nowhere.jsonl}]")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: nowhere.jsonl: no such file or folder; check the source's path\n"
    assert not list(the_store().root.glob("*/*/manifest.json"))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (("plan", "{conf}", "--bogus"), "error: no such option: --bogus; see finetune plan --help"),
        (("promote", "words", "1"), "error: missing option '--reason'; see finetune promote --help"),
        (("plan",), "error: missing argument 'CONFIG'; see finetune plan --help"),
        (("pln",), "error: no such command 'pln'. Did you mean 'plan'?; see finetune --help"),
        (("show",), "error: name a stage or an artifact's directory, or --trace ID"),
        (
            ("run", "{conf}", "--only", "inget"),
            "error: no stage 'inget' in this pipeline; did you mean 'ingest'?",
        ),
    ],
)
def test_a_wrong_call_ends_with_two_and_one_line(conf: Path, call: tuple[str, ...], says: str) -> None:
    done = finetune(*(part.format(conf=conf) for part in call))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{says}\n")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("augment={model: small}", "augment needs an OpenAI-compatible endpoint: set FINETUNE_ENDPOINT_URL"),
        ("scrub.names=presidio", "scrub.names needs presidio_analyzer: pip install"),
    ],
)
def test_what_a_stage_needs_from_outside_is_asked_for_before_anything_is_built(
    conf: Path, override: str, says: str
) -> None:
    done = finetune("run", conf, "--until", "split", "--set", override)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {says}")
    assert len(done.stderr.splitlines()) == 1
    assert not list(the_store().root.glob("*/*/manifest.json"))
    planned = finetune("plan", conf, "--until", "split", "--set", override)
    assert (planned.returncode, planned.stderr) == (0, done.stderr.replace("error", "note", 1))
    assert finetune("plan", conf, "--until", "normalize", "--set", override).stderr == ""


def test_the_config_in_full_is_a_config(conf: Path, tmp_path: Path) -> None:
    done = finetune("config", conf, "--set", "seed=7")
    (tmp_path / "full.yaml").write_text(done.stdout)
    assert load(tmp_path / "full.yaml") == load(conf, ["seed=7"])


def test_one_conversation_is_followed_to_its_file_and_line(conf: Path) -> None:
    config = load(conf)
    built = build(the_store(), lambda: curate(config), until="normalize")
    link_run(the_store(), new_run(the_store().root, "sums"), built)
    shown = json.loads(finetune("show", "normalize", "--n", "2", "--json").stdout)
    wanted = shown["rows"][1]["id"]
    told = finetune("show", "--trace", wanted).stdout
    assert "data.jsonl:2" in told
    assert [line.split() for line in told.splitlines()[-2:]] == [["ingest", "kept"], ["normalize", "kept"]]


def test_what_a_run_used_is_not_pruned_and_what_none_used_is(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    used = build(store, lambda: tiny(TinyConfig()))
    link_run(store, new_run(store.root, "tiny"), {"judge": used["judge"]})
    other = build(store, lambda: tiny(TinyConfig.model_validate({"gather": {"upto": 8}})))
    (store.root / ".work" / "gather-0123").mkdir(parents=True)
    foreseen = prune(store, [], dry_run=True)
    assert all(artifact.path.exists() for artifact in other.values())
    pruned = prune(store, [])
    assert pruned.directories == foreseen.directories
    assert {path.name for path, _ in pruned.directories} == {
        *(a.path.name for a in other.values()),
        "gather-0123",
    }
    assert all(artifact.path.exists() for artifact in used.values()), (
        "a verdict's inputs are referred to by it"
    )
    assert prune(store, []).directories == []


def test_a_registered_model_keeps_what_it_was_made_from_and_old_runs_go(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made: list[dict[str, Artifact]] = []
    for upto in (6, 8, 10):
        built = build(store, lambda upto=upto: tiny(TinyConfig.model_validate({"gather": {"upto": upto}})))  # type: ignore[misc]
        link_run(store, new_run(store.root, "tiny"), built)
        made.append(built)
    first = made[0]
    pruned = prune(store, [first["halve"].path], keep_runs=1)
    assert len(pruned.runs) == 2
    assert [(name, a.path.exists()) for name, a in first.items()] == [
        ("gather", True),
        ("halve", True),
        ("judge", False),
    ]
    assert all(artifact.path.exists() for artifact in built.values())


def test_what_another_process_works_on_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    built = build(store, lambda: tiny(TinyConfig()))["gather"]
    lock = store.root / ".locks" / f"gather-{built.fingerprint}.lock"
    code = f"import filelock as f\nwith f.FileLock({str(lock)!r}):\n    print('held', flush=True); input()"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    pruned = prune(store, [])
    holder.communicate("\n", timeout=20)
    assert pruned.in_use == [built.path]
    assert built.path.exists()


def test_what_cannot_be_meant_is_told_with_its_place_and_the_likely_name(
    conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = finetune("plan", conf, "--until", "splitt")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean 'split'?" in wrong.stderr
    monkeypatch.setenv("FINETUNE_WORKERS", "many")
    monkeypatch.setenv("FINETUNE_DEVICE", "gpu")
    wrong = finetune("plan", conf)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    variables = [line.split(": ")[1] for line in wrong.stderr.splitlines()]
    assert variables == ["FINETUNE_WORKERS", "FINETUNE_DEVICE"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "deploy", "worker"])
def test_a_prefect_server_that_does_not_answer_is_one_line_without_its_password(
    conf: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://user:hidden@127.0.0.1:9/api")
    given = [] if command == "worker" else [conf]
    until = ["--until", "ingest"] if command == "run" else []
    done = finetune(command, *given, *until)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "http://127.0.0.1:9/api does not answer" in errors[0]
    assert "hidden" not in done.stdout + done.stderr


@pytest.mark.parametrize("damage", ["changed", "shortened", "missing", "extra", "manifest"])
def test_damage_is_found_and_put_out_of_the_way_so_that_it_is_built_again(
    tmp_path: Path, damage: str
) -> None:
    store = Store(tmp_path / "store")
    built = build(store, lambda: tiny(TinyConfig()))["halve"]
    file = built.path / "kept.txt"
    match damage:
        case "changed":
            file.write_text(file.read_text().replace("2", "3"))
        case "shortened":
            file.write_text("")
        case "missing":
            file.unlink()
        case "extra":
            (built.path / "kept-2.txt").touch()
        case "manifest":
            (built.path / "manifest.json").write_text("{")
    found = verify(store)
    assert found.count == 3
    assert [one.path for one in found.damaged] == [built.path]
    assert verify(store, "halve", repair=True).damaged[0].moved_to
    assert verify(store).damaged == ()
    assert build(store, lambda: tiny(TinyConfig()))["halve"].digest == built.digest
    assert verify(store).count == 3
