"""A store on a remote: shared whole or not at all, pulled when it is read, in spite of refused requests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline_lib.core import mirror, remote
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import ConfigError, StoreError
from pipeline_lib.core.mirror import MirroredStore, open_store
from pipeline_lib.core.output import Output
from pipeline_lib.core.plan import Planner, Use
from pipeline_lib.core.stage import Recipe, stage
from pipeline_lib.core.store import Store, link_run
from pipeline_lib.kinds import Dataset

BUILDS: list[str] = []


class WriteConfig(StageConfig):
    text: str = "one\n"
    seconds: float = 0.0


@stage(produces=Dataset, version=1)
def write(out: Output, config: WriteConfig) -> None:
    """Two files of text, slowly where the config says so."""
    BUILDS.append("write")
    time.sleep(config.seconds)
    (out.path / "kept-00000.txt").write_text(config.text)
    (out.path / "more").mkdir()
    (out.path / "more" / "kept-00001.txt").write_text(config.text * 2)


class JoinConfig(StageConfig):
    end: str = "."


@stage(produces=Dataset, version=1)
def join(out: Output, config: JoinConfig, texts: Dataset) -> None:
    """Both files end to end."""
    BUILDS.append("join")
    parts = [(texts.path / name).read_text() for name in ("kept-00000.txt", "more/kept-00001.txt")]
    (out.path / "kept-00000.txt").write_text("".join(parts) + config.end)


@stage(produces=Dataset, version=1)
def never_the_same(out: Output, config: JoinConfig) -> None:
    """Bytes that differ from build to build, in two files that belong together."""
    for name in ("kept-00000.txt", "kept-00001.txt"):
        (out.path / name).write_text(f"{out.path.name}")


class RefusingFileSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec is untyped
    """Memory that refuses every third request that reaches it."""

    protocol = "refusing"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    requests = 0

    @classmethod
    def _answer(cls) -> None:
        cls.requests += 1
        if cls.requests % 3 == 0:
            raise OSError("503 Slow Down")

    def _open(self, *args: Any, **kwargs: Any) -> Any:
        self._answer()
        return super()._open(*args, **kwargs)

    def cat_file(self, *args: Any, **kwargs: Any) -> Any:
        self._answer()
        return super().cat_file(*args, **kwargs)

    def ls(self, *args: Any, **kwargs: Any) -> Any:
        self._answer()
        return super().ls(*args, **kwargs)

    def rm_file(self, path: str) -> None:
        self._answer()
        super().rm_file(path)


fsspec.register_implementation("refusing", RefusingFileSystem, clobber=True)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    BUILDS.clear()
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)


@pytest.fixture
def url() -> str:
    return f"memory://bucket-{uuid.uuid4().hex[:8]}/prefix"


def machine(url: str, directory: Path) -> MirroredStore:
    """Return the store as a machine with its own mirror sees it."""
    store = open_store(url, directory)
    assert isinstance(store, MirroredStore)
    return MirroredStore(store.root, store.remote, lease_seconds=1.0)


def text(words: str = "one\n", seconds: float = 0.0) -> Recipe[Dataset]:
    return write.recipe(WriteConfig(text=words, seconds=seconds))


def objects(store: MirroredStore) -> list[str]:
    base = store.remote.base
    return sorted(str(path).removeprefix(base) for path in store.remote.fs.find(base))


def test_a_url_without_scheme_or_of_a_file_is_the_plain_local_store(tmp_path: Path) -> None:
    assert open_store(str(tmp_path / "store"), tmp_path) == Store(tmp_path / "store")
    assert open_store((tmp_path / "a store").as_uri(), tmp_path) == Store(tmp_path / "a store")


def test_two_stores_elsewhere_never_share_a_mirror(tmp_path: Path) -> None:
    assert open_store("memory://a/store", tmp_path).root != open_store("memory://b/store", tmp_path).root


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@mlflow.example:5000/x", "https://mlflow.example:5000/x"),
        ("postgresql://mlflow.example/db?password=secret", "postgresql://mlflow.example/db"),
        ("sqlite:////srv/mlflow.db", "sqlite:////srv/mlflow.db"),
        ("file:///srv/runs", "file:///srv/runs"),
        ("./store", "./store"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert remote.without_user(url) == shown


def test_a_scheme_that_nobody_knows_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere://bucket: no such kind of store"):
        open_store("nowhere://bucket", tmp_path)


def test_a_second_machine_finds_what_the_first_has_built_and_builds_nothing(url: str, tmp_path: Path) -> None:
    first, second = machine(url, tmp_path / "1"), machine(url, tmp_path / "2")
    built = first.materialize(join.recipe(JoinConfig(), first.materialize(text()).artifact))
    found = second.materialize(join.recipe(JoinConfig(), second.materialize(text()).artifact))
    assert (built.built, found.built, BUILDS) == (True, False, ["write", "join"])
    assert found.artifact.digest == built.artifact.digest
    assert (found.artifact.path / "kept-00000.txt").read_text() == "one\none\none\n."
    assert found.artifact.path.is_relative_to(tmp_path / "2")


def test_planning_an_up_to_date_run_pulls_no_file_of_a_large_artifact(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(url, tmp_path / "1").materialize(text())
    monkeypatch.setattr(mirror, "WHOLE", 3)
    second = machine(url, tmp_path / "2")
    planner = Planner(second)
    known = planner.step(Use("write"), text())
    assert planner.steps[0].status == "cached"
    assert [path.name for path in known.path.iterdir()] == ["manifest.json"]
    assert known.manifest.stage == "write"
    joined = second.materialize(join.recipe(JoinConfig(), known)).artifact
    assert (joined.path / "kept-00000.txt").read_text() == "one\none\none\n."
    assert BUILDS == ["write", "join"]


def test_fetch_brings_files_and_the_manifests_behind_them(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machine(url, tmp_path / "1")
    texts = first.materialize(text()).artifact
    first.materialize(join.recipe(JoinConfig(), texts))
    monkeypatch.setattr(mirror, "WHOLE", 0)
    second = machine(url, tmp_path / "2")
    joined = second.find(join.recipe(JoinConfig(), texts))
    assert joined
    assert not (joined.path / "kept-00000.txt").exists()
    assert (second.fetch(joined).path / "kept-00000.txt").exists()
    assert (second.root / texts.address / "manifest.json").exists()


def test_a_killed_push_is_not_found_by_others_and_is_finished_here_without_a_build(
    url: str, tmp_path: Path
) -> None:
    first, second = machine(url, tmp_path / "1"), machine(url, tmp_path / "2")
    first.materialize(text())
    place = first.place(text())
    (manifest,) = (key for key in objects(first) if key.endswith("manifest.json"))
    first.remote.remove(manifest.lstrip("/"))
    mark = first.root / ".unpushed" / f"write-{place.name}"
    mark.touch()
    assert second.find(text()) is None
    assert not first.materialize(text()).built
    assert not mark.exists()
    assert not second.materialize(text()).built
    assert BUILDS == ["write"]


def test_where_the_pusher_is_gone_another_machine_builds_again(url: str, tmp_path: Path) -> None:
    first, second = machine(url, tmp_path / "1"), machine(url, tmp_path / "2")
    first.materialize(text())
    first.remote.remove(f"write/{text().fingerprint}/manifest.json")
    assert second.materialize(text()).built
    assert machine(url, tmp_path / "3").find(text())


@pytest.mark.parametrize("harm", ["flip", "remove"])
def test_a_damaged_file_stops_the_run_with_its_name_and_is_built_anew_by_the_next(
    harm: str, url: str, tmp_path: Path
) -> None:
    first, second = machine(url, tmp_path / "1"), machine(url, tmp_path / "2")
    first.materialize(text())
    (key,) = (key.lstrip("/") for key in objects(first) if key.endswith("kept-00001.txt"))
    if harm == "flip":
        first.remote.write(key, b"oNe\none\n")
    else:
        first.remote.remove(key)
    with pytest.raises(StoreError, match=r"kept-00001\.txt: (damaged|gone)"):
        second.find(text())
    assert second.materialize(text()).built
    assert not machine(url, tmp_path / "3").materialize(text()).built


def test_builders_whose_bytes_differ_never_mix(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = never_the_same.recipe(JoinConfig())
    early, late = machine(url, tmp_path / "early"), machine(url, tmp_path / "late")
    one = machine(url, tmp_path / "1").materialize(recipe, force=True).artifact
    monkeypatch.setattr(mirror, "WHOLE", 0)
    known = early.find(recipe)
    other = machine(url, tmp_path / "2").materialize(recipe, force=True).artifact
    found = late.find(recipe)
    assert known
    assert found
    assert one.digest != other.digest
    assert _texts(early.fetch(known)) == _texts(one)
    assert _texts(late.fetch(found)) == _texts(other)


def _texts(artifact: Dataset) -> list[str]:
    return [path.read_text() for path in sorted(artifact.path.glob("kept-*"))]


def test_one_machine_builds_while_the_other_waits(url: str, tmp_path: Path) -> None:
    recipe = text(seconds=0.6)
    machines = [machine(url, tmp_path / name) for name in "12"]
    threads = [threading.Thread(target=store.materialize, args=(recipe,)) for store in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert BUILDS == ["write"]
    assert all(store.find(recipe) for store in machines)
    assert not any(".leases" in key for key in objects(machines[0]))


def test_the_lease_of_a_dead_builder_runs_out(url: str, tmp_path: Path) -> None:
    store = machine(url, tmp_path)
    key = f".leases/write-{text().fingerprint}.json"
    store.remote.write(key, json.dumps({"owner": "elsewhere:/mirror", "token": "x", "beat": 3}).encode())
    start = time.monotonic()
    assert store.materialize(text()).built
    assert 1.0 < time.monotonic() - start < 5.0


def test_a_living_builders_lease_outlasts_its_term(url: str, tmp_path: Path) -> None:
    recipe = text(seconds=2.0)
    machines = [machine(url, tmp_path / name) for name in "12"]
    first = threading.Thread(target=machines[0].materialize, args=(recipe,))
    first.start()
    while not BUILDS:
        time.sleep(0.01)
    assert not machines[1].materialize(recipe).built
    first.join()


def test_a_builder_that_died_on_this_machine_keeps_nobody_waiting(url: str, tmp_path: Path) -> None:
    store = MirroredStore(tmp_path, remote.Remote.at(url), lease_seconds=600.0)
    owner = f"{os.uname().nodename}:{tmp_path.resolve()}"
    left = json.dumps({"owner": owner, "token": "x", "beat": 3}).encode()
    store.remote.write(f".leases/write-{text().fingerprint}.json", left)
    assert store.materialize(text()).built


def test_every_third_request_refused_and_all_is_there(tmp_path: Path) -> None:
    url = f"refusing://bucket-{uuid.uuid4().hex[:8]}"
    first, second = machine(url, tmp_path / "1"), machine(url, tmp_path / "2")
    before = RefusingFileSystem.requests
    first.materialize(join.recipe(JoinConfig(), first.materialize(text()).artifact))
    found = second.materialize(join.recipe(JoinConfig(), second.materialize(text()).artifact))
    assert not found.built
    assert BUILDS == ["write", "join"]
    assert RefusingFileSystem.requests - before > 15


def test_a_remote_that_never_answers_is_one_line_and_what_was_built_is_kept(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(url, tmp_path)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("503 Slow Down")

    with monkeypatch.context() as broken:
        broken.setattr(MemoryFileSystem, "put_file", refuse)
        with pytest.raises(StoreError, match=r"503 Slow Down; what is done is kept"):
            store.materialize(text())
    assert not store.materialize(text()).built
    assert machine(url, tmp_path / "2").find(text())
    assert BUILDS == ["write"]


def test_plan_reasons_know_what_other_machines_have(url: str, tmp_path: Path) -> None:
    machine(url, tmp_path / "1").materialize(text())
    planner = Planner(machine(url, tmp_path / "2"))
    planner.step(Use("write"), text("two\n"))
    assert "config.text" in planner.steps[0].reason


def test_a_run_record_names_its_artifacts_for_all_machines(url: str, tmp_path: Path) -> None:
    store = machine(url, tmp_path)
    artifact = store.materialize(text()).artifact
    link_run(store, "small-20260101-000000", {"write": artifact})
    (key,) = (key for key in objects(store) if key.startswith("/runs/"))
    record = store.remote.read(key.lstrip("/"))
    assert record
    assert json.loads(record) == {"write": artifact.address}
    assert [m.stage for _, m in machine(url, tmp_path / "2").manifests()] == ["write"]


def test_a_manifest_that_leads_out_of_the_store_is_none(url: str, tmp_path: Path) -> None:
    first = machine(url, tmp_path / "1")
    manifest = first.materialize(text()).artifact.manifest
    moved = [entry.model_copy(update={"path": "../../../escaped"}) for entry in manifest.files]
    bad = manifest.model_copy(update={"files": moved}).model_dump_json()
    first.remote.write(f"write/{text().fingerprint}/manifest.json", bad.encode())
    assert machine(url, tmp_path / "2").find(text()) is None


def test_user_and_password_of_a_url_are_in_no_message_and_no_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(f"memory://someone:hunter2@bucket-{uuid.uuid4().hex[:8]}/prefix", tmp_path)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("someone:hunter2 may not")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refuse)
    with pytest.raises(StoreError) as caught:
        store.find(text())
    assert "hunter2" not in f"{caught.value} {store!r} {store.root}"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of an S3 server that runs as a process of its own."""
    if not (find_spec("s3fs") and find_spec("moto")):
        pytest.skip("needs s3fs and moto[server]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "server.log").open("w")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)
        log.close()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert server.poll() is None, "the S3 server ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the S3 server did not answer within a minute")


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for key, value in {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    # fsspec keeps the file system of another test module's server.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}/prefix"


@pytest.mark.services
@pytest.mark.filterwarnings("default")  # botocore and s3fs warn on their own account
def test_on_s3_a_second_machine_builds_nothing(bucket: str, tmp_path: Path) -> None:
    first, second = machine(bucket, tmp_path / "1"), machine(bucket, tmp_path / "2")
    first.materialize(join.recipe(JoinConfig(), first.materialize(text()).artifact))
    assert not second.materialize(join.recipe(JoinConfig(), second.materialize(text()).artifact)).built
    assert BUILDS == ["write", "join"]
    assert [m.stage for _, m in machine(bucket, tmp_path / "3").manifests()] == ["join", "write"]


@pytest.mark.services
@pytest.mark.filterwarnings("default")
def test_on_s3_a_lease_is_created_once(bucket: str, tmp_path: Path) -> None:
    store = machine(bucket, tmp_path)
    assert store.remote.create("lease", b"one")
    assert not store.remote.create("lease", b"two")
    assert store.remote.read("lease") == b"one"


@pytest.mark.services
@pytest.mark.filterwarnings("default")
def test_on_s3_a_missing_bucket_stops_before_anything_is_built(bucket: str, tmp_path: Path) -> None:
    missing = bucket.replace("bucket-", "nobucket-")
    with pytest.raises(StoreError, match="create the bucket"):
        machine(missing, tmp_path).materialize(text())
    assert BUILDS == []
