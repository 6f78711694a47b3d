"""Stages that judge row by row write the same bytes with and without what was kept, on one core or many."""

import importlib.util
import os
import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib import records
from pipeline_lib.core.store import Store
from pipeline_lib.curation import blocks, kept_blocks
from pipeline_lib.curation.blocks import Outcome, cut, digest
from pipeline_lib.curation.decontaminate import DecontaminateConfig, decontaminate
from pipeline_lib.curation.deduplicate import DeduplicateConfig, deduplicate
from pipeline_lib.curation.filter import FilterConfig, filter
from pipeline_lib.curation.format import FormatConfig, format
from pipeline_lib.curation.near_duplicates import Index
from pipeline_lib.curation.normalize import NormalizeConfig, normalize
from pipeline_lib.curation.scrub import ScrubConfig, scrub
from pipeline_lib.curation.split import SplitConfig, split
from pipeline_lib.curation.workers import Processes, fork_server
from pipeline_lib.kinds import Dataset
from pipeline_lib.settings import settings
from tests.curation.conftest import Row, Workshop, chat, message, pair, text

STAGES: list[tuple[Any, Any]] = [
    (normalize, NormalizeConfig()),
    (scrub, ScrubConfig()),
    (deduplicate, DeduplicateConfig(threshold=0.9, keep="best")),
    (filter, FilterConfig()),
    (decontaminate, DecontaminateConfig()),
    (format, FormatConfig(system="Be kind.")),
    (split, SplitConfig(minimum=0)),
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_END", "[05]$")
    monkeypatch.setattr(blocks, "MOST_ROWS", 8)
    monkeypatch.setenv("FINETUNE_WORKERS", "1")  # processes have a test of their own
    settings.cache_clear()


def _rows(begin: int, end: int) -> list[Row]:
    rows = []
    for i in range(begin, end):
        asked = f"Who is person number {i} of the village?  \u200b"
        answer = f"She is called Ann {i}, her mail is ann{i}@acme.io, and she lives here.\r\nThat is all."
        rows.append(chat(asked, "" if i % 11 == 0 else answer, name=f"{i:05}"))
        if i % 7 == 0:
            rows[-1] = text(f"Plain text {i}.\n\n\n\n\n\nMore of it.", f"{i:05}")
        elif i % 13 == 0:
            rows[-1] = pair(asked, answer, answer if i % 2 else "no", f"{i:05}")
    return rows


def _digests(store: Store, rows: Dataset) -> list[tuple[str, dict[str, Any]]]:
    made = []
    for stage, config in STAGES:
        rows = Workshop(store).run(stage, config, rows)
        made.append((rows.digest, rows.manifest.stats))
    return made


def test_a_dataset_that_grows_has_the_bytes_of_one_that_was_always_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[int] = []
    ours = Processes.submit

    def counted(self: Any, block: pa.RecordBatch) -> Any:
        judged.append(block.num_rows)
        return ours(self, block)

    monkeypatch.setattr(Processes, "submit", counted)
    grown, fresh = Workshop(Store(tmp_path / "grown")), Workshop(Store(tmp_path / "fresh"))
    before = _rows(0, 300)
    _digests(grown.store, grown.dataset(before))
    assert sum(judged) > 1000
    judged.clear()
    after = [*before[:100], *_rows(900, 906), *before[100:250], *before[252:]]
    made = _digests(grown.store, grown.dataset(after))
    assert 0 < sum(judged) < 0.3 * 5 * len(after)
    assert made == _digests(fresh.store, fresh.dataset(after))


def test_kept_blocks_that_are_damaged_or_gone_are_worked_out_again(tmp_path: Path) -> None:
    shop = Workshop(Store(tmp_path / "store"))
    first = _digests(shop.store, shop.dataset(_rows(0, 60)))
    kept = sorted((shop.store.root / ".blocks").glob("*/*.*"))
    assert len(kept) > 20
    assert {path.suffix for path in kept} == {".arrow", ".npz"}
    for number, path in enumerate(kept):
        if number % 3 == 0:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: 40 * (number % 3 - 1)])
    for stage, _ in STAGES:
        shutil.rmtree(shop.store.root / stage.name)
    assert _digests(shop.store, shop.dataset(_rows(0, 60))) == first


def test_force_works_everything_out_again(tmp_path: Path) -> None:
    shop = Workshop(Store(tmp_path / "store"))
    rows = shop.dataset(_rows(0, 60))
    made = shop.store.materialize(normalize.recipe(NormalizeConfig(), rows))
    kept = {path: path.stat().st_mtime_ns for path in (shop.store.root / ".blocks").glob("*/*.arrow")}
    again = shop.store.materialize(normalize.recipe(NormalizeConfig(), rows), force=True)
    assert again.artifact.digest == made.artifact.digest
    assert all(path.stat().st_mtime_ns > then for path, then in kept.items())


def _marked(suffix: str, block: pa.RecordBatch) -> Outcome:
    changed, count = records.map_contents(block, lambda text: text + suffix)
    verdicts = [("odd", row) if int(row or 0) % 2 else None for row in block.column("id").to_pylist()]
    return Outcome(changed, verdicts, {"count": count, "process": os.getpid()})


@pytest.mark.parametrize("workers", [1, 3])
def test_other_processes_give_the_outcomes_of_this_one_in_order(
    workers: int, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline_lib.curation.workers._AT_HOME", 2)
    monkeypatch.setenv("FINETUNE_WORKERS", str(workers))
    settings.cache_clear()
    dataset = workshop.dataset(_rows(0, 120))
    judge = partial(_marked, "!")
    fork_server().result()
    there = list(cut(records.batches(dataset.shards())))
    found = list(blocks._judged(iter(there), kept_blocks.KeptBlocks(None), judge))
    assert len(there) > 10
    for block, outcome in zip(there, found, strict=True):
        assert outcome.batch.equals(judge(block).batch)
        assert list(outcome.verdicts) == list(judge(block).verdicts)
    assert (len({outcome.counts["process"] for outcome in found}) > 1) == (workers > 1)


def _halved(number: int) -> int:
    if number % 2:
        raise ValueError(number)
    return number // 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_piece_that_fails_says_so_where_its_result_is_wanted_and_spoils_no_other(workers: int) -> None:
    if workers > 1:
        fork_server().result()
    processes = Processes(_halved, workers)
    results = [processes.submit(number) for number in (0, 2, 5, 4, 6, 8, 10, 12)]
    assert [result() for result in reversed(results[3:])] == [6, 5, 4, 3, 2]
    with pytest.raises(ValueError, match="5"):
        results[2]()
    assert [result() for result in results[:2]] == [0, 1]
    processes.close()


@given(st.lists(st.integers(0, 99), max_size=60), st.integers(1, 20), st.integers(0, 59))
def test_blocks_are_the_same_however_rows_arrive_and_meet_again_after_a_change(
    numbers: list[int], size: int, taken: int
) -> None:
    rows = [chat("q", "a", name=f"{number:03}") for number in numbers]
    whole = records.from_rows(rows)

    def parts(batch: pa.RecordBatch, size: int) -> Iterator[pa.RecordBatch]:
        yield from (batch.slice(i, size) for i in range(0, batch.num_rows, size))

    found = list(cut(parts(whole, size)))
    assert [row for block in found for row in block.to_pylist()] == whole.to_pylist()
    assert [digest(block) for block in found] == [digest(block) for block in cut(parts(whole, 1000))]
    assert all(1 <= block.num_rows <= 8 for block in found)
    ends = [place for place, number in enumerate(numbers) if number % 5 == 0 and place > taken]
    if ends:
        # From the first end behind the change on, blocks are what they were.
        without = records.from_rows(rows[:taken] + rows[taken + 1 :])
        behind = [digest(block) for block in cut(parts(whole.slice(ends[0] + 1), 5))]
        assert [digest(block) for block in cut(parts(without, 7))][-len(behind) or len(rows) :] == behind


MESSAGES = st.lists(
    st.builds(message, st.sampled_from(["user", "assistant"]), st.text(max_size=5) | st.none()), max_size=3
)
ROW = st.fixed_dictionaries(
    {"id": st.text(max_size=3), "messages": MESSAGES | st.none(), "label": st.none() | st.booleans()},
    optional={"chosen": MESSAGES, "metadata": st.text(max_size=4)},
)


@given(before=st.lists(ROW, min_size=1, max_size=12), data=st.data())
def test_what_is_kept_reads_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, before: list[Row], data: st.DataObject
) -> None:
    after = [data.draw(st.just(row) | ROW) for row in before]
    verdicts = [data.draw(st.none() | st.tuples(st.text(max_size=3), st.text(max_size=3))) for _ in before]
    block, made = records.from_rows(before), records.from_rows(after)
    kept = kept_blocks.KeptBlocks(tmp_path_factory.mktemp("kept"))
    counts = {"count": 3, "kinds": {"a": 1}}
    kept.write("key", made, verdicts, counts, block)
    kept.write("whole", made, verdicts, counts)
    for known in (kept.read("key", block), kept.read("whole")):
        assert known is not None
        assert known[0].equals(made)
        assert known[1:] == (verdicts, counts)
    assert kept.read("other", block) is None


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an extra")
@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes_writes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    rows = _rows(0, 200)
    shop = Workshop(Store(tmp_path / "local"))
    local = _digests(shop.store, shop.dataset(rows))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        monkeypatch.setenv("FINETUNE_ENGINE", "ray")
        monkeypatch.setenv("FINETUNE_RAY_ADDRESS", cluster.address)
        settings.cache_clear()
        shop = Workshop(Store(tmp_path / "ray"))
        assert _digests(shop.store, shop.dataset(rows)) == local
        _bands_are_joined_alike()
    finally:
        cluster.shutdown()


def _bands_are_joined_alike() -> None:
    """Compare what Ray and this process make of edited texts, and of a template that fills large buckets."""
    draw = random.Random(4)
    words = [f"word{i}" for i in range(400)]
    texts = [" ".join(draw.choices(words, k=30)) for _ in range(300)]
    texts += [text.replace(draw.choice(text.split()), "other") for text in texts for _ in range(2)]
    template = " ".join(words[:60])
    texts += [f"{template} {' '.join(draw.choices(words, k=8))}" for _ in range(200)]
    found = []
    for engine in ("local", "ray"):
        index = Index(engine=engine)
        index.add(texts)
        found.append(index.clusters(0.7))
    assert found[0].duplicates.sum() > 300
    for name in ("roots", "partners", "jaccards"):
        assert getattr(found[0], name).tolist() == getattr(found[1], name).tolist()


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from pipeline_lib.core.errors import ConfigError
    from pipeline_lib.curation.on_ray import cluster

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"finetune-flows\[ray\]"), cluster():
        pass
