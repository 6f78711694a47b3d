"""Upkeep of a store that machines share: what is not here yet is whole, what is needed anywhere stays."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from flows.copies import drop_copies
from flows.upkeep import lock_of, prune, verify
from pipeline_lib.core import mirror
from pipeline_lib.core.errors import ConfigError, StoreError
from pipeline_lib.core.locks import hold
from pipeline_lib.core.mirror import MirroredStore
from pipeline_lib.core.store import Store, link_run
from pipeline_lib.kinds import Dataset
from tests.core.test_remote import (
    BUILDS,
    JoinConfig,
    bucket,
    fresh,
    join,
    machine,
    objects,
    s3,
    text,
    url,
)

__all__ = ["bucket", "fresh", "s3", "url"]


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave files in the remote until a stage reads them."""
    monkeypatch.setattr(mirror, "WHOLE", 0)


def run(store: MirroredStore, words: str, name: str) -> tuple[Dataset, Dataset]:
    """Build two stages as a recorded run."""
    first = store.materialize(text(words)).artifact
    second = store.materialize(join.recipe(JoinConfig(), first)).artifact
    link_run(store, name, {"write": first, "join": second})
    return first, second


def harm(store: MirroredStore, end: str, *, remove: bool = False) -> None:
    key = next(key.lstrip("/") for key in objects(store) if key.endswith(end))
    if remove:
        store.remote.remove(key)
    else:
        store.remote.write(key, b"!" + (store.remote.read(key) or b"")[1:])


def test_what_is_yet_to_be_pulled_is_not_damaged(url: str, tmp_path: Path, lazy: None) -> None:
    run(machine(url, tmp_path / "1"), "one\n", "small-20260101-000000")
    second = machine(url, tmp_path / "2")
    checked = verify(second)
    assert (checked.count, checked.damaged) == (2, ())
    assert not list(second.root.glob("*/*/kept-*"))


@pytest.mark.parametrize("remove", [False, True])
def test_damage_in_the_remote_is_named_and_mended_from_a_machine_that_has_it_whole(
    remove: bool, url: str, tmp_path: Path, lazy: None
) -> None:
    first, other = machine(url, tmp_path / "1"), machine(url, tmp_path / "2")
    run(first, "one\n", "small-20260101-000000")
    harm(first, "kept-00001.txt", remove=remove)
    (damage,) = verify(other, "write").damaged
    fault = "missing" if remove else "its bytes have changed"
    assert [f.rpartition("/")[2] for f in damage.faults] == [f"kept-00001.txt: {fault}"]
    assert verify(first, "write", repair=True).damaged[0].withdrawn
    assert verify(first).damaged == verify(other).damaged == ()
    assert not machine(url, tmp_path / "3").materialize(text("one\n")).built


def test_damage_that_nobody_here_can_mend_is_built_again(url: str, tmp_path: Path, lazy: None) -> None:
    run(machine(url, tmp_path / "1"), "one\n", "small-20260101-000000")
    other = machine(url, tmp_path / "2")
    harm(other, "kept-00001.txt")
    assert verify(other, repair=True).damaged[0].withdrawn
    assert verify(other).count == 2
    BUILDS.clear()
    assert other.materialize(text("one\n")).built
    assert verify(other).damaged == ()


def test_a_damaged_mirror_is_put_away_and_pulled_again(url: str, tmp_path: Path) -> None:
    store = machine(url, tmp_path)
    first, _ = run(store, "one\n", "small-20260101-000000")
    (first.path / "kept-00000.txt").write_text("onE\n")
    (damage,) = verify(store, repair=True).damaged
    assert (damage.path, bool(damage.moved_to), damage.withdrawn) == (first.path, True, False)
    assert not store.materialize(text("one\n")).built
    assert verify(store).damaged == ()


def upkeep_spares_what_any_machine_needs(url: str, tmp_path: Path) -> None:
    one, two = machine(url, tmp_path / "1"), machine(url, tmp_path / "2")
    _, mine = run(one, "one\n", "small-20260101-000000")
    _, model = run(two, "two\n", "small-20260102-000000")
    two.materialize(text("none\n" * 1000))
    third = machine(url, tmp_path / "3")
    foreseen = prune(third, [], dry_run=True)
    assert [path.parent.name for path, _ in foreseen.directories] == ["write"]
    assert foreseen.bytes == 15_000
    before = objects(third)
    assert prune(third, []).directories == foreseen.directories
    gone = set(before) - set(objects(third))
    assert {key.split("/")[2] for key in gone} == {text("none\n" * 1000).fingerprint}
    assert prune(third, [model.path], keep_runs=0).runs == ["small-20260102-000000", "small-20260101-000000"]
    left = {key.split("/")[2] for key in objects(third) if "kept" in key}
    assert left == {model.fingerprint, text("two\n").fingerprint}
    assert machine(url, tmp_path / "4").find(text("one\n")) is None
    assert mine.path.exists()


def test_prune_spares_what_any_machine_needs(url: str, tmp_path: Path, lazy: None) -> None:
    upkeep_spares_what_any_machine_needs(url, tmp_path)


def test_prune_leaves_what_another_machine_builds(url: str, tmp_path: Path) -> None:
    one, two = machine(url, tmp_path / "1"), machine(url, tmp_path / "2")
    built = one.materialize(text()).artifact
    one.remote.write(f".leases/write-{text().fingerprint}.json", b"{}")
    assert [path.name for path in prune(two, []).in_use] == [built.path.name]
    assert machine(url, tmp_path / "3").find(text())


def copies_go_and_come_back(url: str, tmp_path: Path) -> None:
    store = machine(url, tmp_path / "copies")
    first, second = run(store, "one\n", "small-20260101-000000")
    freed = [(first.path, 12), (second.path, 13)]
    assert sorted(drop_copies(store, dry_run=True).directories) == sorted(freed)
    assert (second.path / "kept-00000.txt").exists()
    assert sorted(drop_copies(store).directories) == sorted(freed)
    assert [file.name for file in second.path.iterdir()] == ["manifest.json"]
    assert drop_copies(store).directories == []
    BUILDS.clear()
    again = store.materialize(join.recipe(JoinConfig(), store.materialize(text("one\n")).artifact))
    assert not again.built
    assert (store.fetch(again.artifact).path / "kept-00000.txt").read_text() == "one\none\none\n."
    assert verify(store).damaged == ()
    assert BUILDS == []


def test_copies_go_and_come_back(url: str, tmp_path: Path, lazy: None) -> None:
    copies_go_and_come_back(url, tmp_path)


@pytest.mark.parametrize("how", ["gone", "cut", "unpushed", "not there"])
def test_the_only_copy_stays(how: str, url: str, tmp_path: Path, lazy: None) -> None:
    store = machine(url, tmp_path)
    first = store.materialize(text()).artifact
    key = next(key.lstrip("/") for key in objects(store) if key.endswith("kept-00001.txt"))
    if how == "gone":
        store.remote.remove(key)
    elif how == "cut":
        store.remote.write(key, b"one\n")
    elif how == "unpushed":
        (store.root / ".unpushed").mkdir(exist_ok=True)
        (store.root / ".unpushed" / first.address.replace("/", "-")).touch()
    else:
        store.remote.remove(f"{first.address}/manifest.json")
    assert drop_copies(store).directories == []
    assert (first.path / "kept-00000.txt").exists()


def test_small_artifacts_are_no_copies_worth_a_pull(url: str, tmp_path: Path) -> None:
    store = machine(url, tmp_path)
    store.materialize(text())
    assert drop_copies(store).directories == []


def test_copies_stay_while_a_stage_is_built_from_them_and_where_nothing_else_is(
    url: str, tmp_path: Path, lazy: None
) -> None:
    store = machine(url, tmp_path / "1")
    store.materialize(text())
    scratch = store.root / ".scratch" / f"join-{'0' * 64}.12345678"
    scratch.mkdir(parents=True)
    with hold(lock_of(store, scratch)), pytest.raises(StoreError, match=r"^join: being built here"):
        drop_copies(store)
    assert len(drop_copies(store).directories) == 1
    with pytest.raises(ConfigError, match="is the store itself"):
        drop_copies(Store(tmp_path / "2"))


@pytest.mark.services
@pytest.mark.filterwarnings("default")  # botocore and s3fs warn on their own account
def test_on_s3_prune_and_verify_do_the_same(bucket: str, tmp_path: Path, lazy: None) -> None:
    upkeep_spares_what_any_machine_needs(bucket, tmp_path)
    copies_go_and_come_back(bucket, tmp_path)
    store = machine(bucket, tmp_path / "5")
    run(store, "three\n", f"small-20260103-{uuid.uuid4().int % 1000000:06d}")
    harm(store, "kept-00001.txt")
    assert len(verify(machine(bucket, tmp_path / "6")).damaged) == 1
    assert verify(store, repair=True).damaged[0].withdrawn
    assert verify(machine(bucket, tmp_path / "7")).damaged == ()
