"""Writes behind their caller are done in order, and none that fails is forgotten."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_lib import records
from pipeline_lib.core.behind import Behind, ahead
from pipeline_lib.settings import settings


@pytest.mark.parametrize("on", [False, True])
def test_calls_are_done_in_order_and_all_of_them_when_it_is_finished(on: bool) -> None:
    done: list[int] = []
    behind = Behind(on)
    for number in range(50):
        behind.do(lambda number=number: done.append(number))  # type: ignore[misc]
    behind.finish()
    assert done == list(range(50))


def test_a_call_does_not_wait_for_the_one_before_it_to_be_given() -> None:
    begun, go = threading.Event(), threading.Event()
    behind = Behind(True)

    def wait() -> None:
        begun.set()
        go.wait(10)

    behind.do(wait)
    assert begun.wait(10)
    go.set()
    behind.finish()


@pytest.mark.parametrize("on", [False, True])
def test_an_error_is_raised_by_what_comes_next(on: bool) -> None:
    def fail() -> None:
        raise OSError("the disk is full")

    for finish in (lambda one: one.do(lambda: None), Behind.finish):
        behind = Behind(on)

        def fail_and_go_on(behind: Behind = behind, finish: Callable[[Behind], None] = finish) -> None:
            behind.do(fail)
            finish(behind)

        with pytest.raises(OSError, match="the disk is full"):
            fail_and_go_on()
        behind.end()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_shard_that_cannot_be_written_fails_the_writer(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_WORKERS", str(workers))
    settings.cache_clear()
    monkeypatch.setattr(records, "SHARD_ROWS", 2)
    row = {"id": "1", "source": "s", "messages": [records.message("text", "t")], "metadata": "{}"}
    batch = records.from_rows([row] * 7)
    (tmp_path / "kept-00002.parquet").mkdir()
    before = threading.active_count()
    with pytest.raises((OSError, pa.ArrowException)), records.DatasetWriter(tmp_path) as writer:
        writer.keep(batch)
    assert threading.active_count() == before


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_what_is_read_ahead_comes_whole_and_in_order_and_its_errors_too(on: bool, count: int) -> None:
    assert list(ahead(range(count), on)) == list(range(count))

    def breaks_off() -> Iterator[int]:
        yield from range(count)
        raise OSError("the disk is gone")

    met: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"):
        met.extend(number for number in ahead(breaks_off(), on) if met.append(number))  # type: ignore[func-returns-value]
    assert met == list(range(count))


def test_one_item_is_read_while_the_one_before_it_is_worked_on() -> None:
    reading = threading.Event()

    def two() -> Iterator[int]:
        yield 1
        reading.set()
        yield 2

    before = threading.active_count()
    items = ahead(two(), True)
    assert next(items) == 1
    assert reading.wait(10)
    items.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
