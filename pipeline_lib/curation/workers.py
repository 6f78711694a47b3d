"""Workers: one function over many pieces of work, in one process, in many, or on Ray, its results in order.

A piece is whatever can be pickled: a block of conversations, a run of rows. The results are the same for any
number of workers and on either engine, since no piece knows of another.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any, Generic, TypeVar

from pipeline_lib.core.interrupts import spared
from pipeline_lib.settings import settings

_AT_HOME = 8
"""Pieces that are worked on in this process before others are started for the rest."""
_ENGINES = ("pipeline_lib.curation.quality.verdicts", "pipeline_lib.personal_data.detect")
"""Modules that take long to import, loaded once for all worker processes."""
_AHEAD = 4
"""Pieces for each worker that are read before the first of them is needed."""

P = TypeVar("P")
T = TypeVar("T")
Submit = Callable[[P], Callable[[], T]]
"""Begins work on a piece and returns what waits for its result."""


@contextmanager
def working(work: Callable[[P], T]) -> Iterator[Submit[P, T]]:
    """Give a way to have pieces worked on: by Ray, or in this process and, where many come, in others."""
    if settings().engine == "ray":
        from pipeline_lib.curation.on_ray import working_on_cluster

        with working_on_cluster(work) as submit:
            yield submit
        return
    processes = Processes(work, settings().workers)
    try:
        yield processes.submit
    finally:
        processes.close()


def in_order(pieces: Iterable[P], begin: Submit[P, T]) -> Iterator[T]:
    """Yield what was begun for each piece, in order, with a few for each worker under way."""
    waiting: deque[Callable[[], T]] = deque()
    for piece in pieces:
        waiting.append(begin(piece))
        if len(waiting) > _AHEAD * settings().workers:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


def known_or(
    known: T | None, begin: Callable[[], Callable[[], T]], keep: Callable[[T], None]
) -> Callable[[], T]:
    """Return what gives a piece's result when it is wanted: a known one, or one begun now and kept."""
    if known is not None:
        return lambda: known
    result = begin()

    def finish() -> T:
        found = result()
        keep(found)
        return found

    return finish


@dataclass
class Processes(Generic[P, T]):
    """The process itself, and ``workers`` others once there is work for them."""

    work: Callable[[P], T]
    workers: int
    begun: int = 0
    pool: ProcessPoolExecutor | None = None

    def submit(self, piece: P) -> Callable[[], T]:
        """Begin work on a piece; what is returned waits for its result."""
        self.begun += 1
        if self.workers == 1 or self.begun <= _AT_HOME:
            return lambda: self.work(piece)
        if self.pool is None:
            # Forked from a server without the threads that Prefect and Arrow run here, its imports done.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__, *_ENGINES])
            with spared():
                forkserver.ensure_running()
            self.pool = ProcessPoolExecutor(self.workers, context, _remember, (self.work,))
        return self.pool.submit(_work_here, piece).result

    def close(self) -> None:
        """End the other processes; what they had not begun is left undone."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


_remembered: list[Callable[[Any], Any]] = []


def _remember(work: Callable[[Any], Any]) -> None:
    """Keep what this worker process is to do, so that it is sent once and not with every piece."""
    _remembered[:] = [work]


def _work_here(piece: Any) -> Any:
    return _remembered[0](piece)
