"""Workers: one function over many pieces of work, in one process, in many, or on Ray, its results in order.

A piece is whatever can be pickled: a block of conversations, a run of rows. The results are the same for any
number of workers and on either engine, since no piece knows of another.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import forkserver
from typing import Any, Generic, TypeVar

from pipeline_lib.core.behind import ahead
from pipeline_lib.core.interrupts import spared
from pipeline_lib.settings import settings

_AT_HOME = 4
"""Pieces that this process works on alone; with more, others are started."""
_SENT = 3
"""Pieces for each other process that are sent before it has done the first of them."""
_AHEAD = 3
"""Pieces for each worker that are read before the first of them is needed."""

P = TypeVar("P")
T = TypeVar("T")
Submit = Callable[[P], Callable[[], T]]
"""Begins work on a piece and returns what waits for its result."""


@contextmanager
def working(work: Callable[[P], T]) -> Iterator[Submit[P, T]]:
    """Give a way to have pieces worked on: by Ray, or in this process and, where many come, others too."""
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
    for piece in ahead(pieces, settings().workers > 1):
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
class _Task(Generic[P, T]):
    """A piece, and what comes of it."""

    piece: P
    result: Future[T] = field(default_factory=Future)


@dataclass
class Processes(Generic[P, T]):
    """What works: the process itself and, once there is enough to do, others beside it, ``workers`` in all.

    Where a result is waited for, it works on what nobody has begun: it need not wait for the others to start,
    and is idle only when all is begun.
    """

    work: Callable[[P], T]
    workers: int
    submitted: int = 0
    _unbegun: deque[_Task[P, T]] = field(default_factory=deque)
    _sent: list[Future[T]] = field(default_factory=list)
    _pool: ProcessPoolExecutor | None = None

    def submit(self, piece: P) -> Callable[[], T]:
        """Take a piece on; what is returned gives its result."""
        task: _Task[P, T] = _Task(piece)
        self._unbegun.append(task)
        self.submitted += 1
        self._send()
        return partial(self._result_of, task)

    def close(self) -> None:
        """End the other processes; what they had not begun is left undone."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _result_of(self, task: _Task[P, T]) -> T:
        while self._unbegun and not task.result.done():
            self._do(self._unbegun.popleft())
            self._send()
        return task.result.result()

    def _do(self, task: _Task[P, T]) -> None:
        try:
            task.result.set_result(self.work(task.piece))
        except Exception as error:  # the caller's, when it asks for this piece
            task.result.set_exception(error)

    def _send(self) -> None:
        """Let the other processes have work, where there is enough and they are ready for it."""
        others = self.workers - 1
        if not others or self.submitted <= _AT_HOME or not fork_server().done():
            return
        fork_server().result()
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            self._pool = ProcessPoolExecutor(others, context, _remember, (self.work,))
        self._sent = [result for result in self._sent if not result.done()]
        while self._unbegun and len(self._sent) < _SENT * others:
            task = self._unbegun.popleft()
            task.result = self._pool.submit(_work_here, task.piece)
            self._sent.append(task.result)


@cache
def fork_server() -> Future[None]:
    """Start, in the background, what other processes are forked from: without the threads that run here.

    What is returned is done once its imports are.
    """
    ready: Future[None] = Future()
    threading.Thread(target=_start_fork_server, args=(ready,), name="fork-server", daemon=True).start()
    return ready


def _start_fork_server(ready: Future[None]) -> None:
    try:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "pipeline_lib.curation.preloaded"])
        with spared():
            forkserver.ensure_running()
        # It answers once its imports are done.
        first = context.Process(target=int)
        first.start()
        first.join()
    except Exception as error:
        ready.set_exception(error)
    else:
        ready.set_result(None)


_remembered: list[Callable[[Any], Any]] = []


def _remember(work: Callable[[Any], Any]) -> None:
    """Keep what this worker process is to do, so that it is sent once and not with every piece."""
    _remembered[:] = [work]


def _work_here(piece: Any) -> Any:
    return _remembered[0](piece)
