"""Behind and ahead: slow writes and reads in a thread of their own, beside what is worked out meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


class Behind:
    """Does calls one after the other, at most one at a time behind its caller; off, it does them at once.

    A call's error is raised by the next ``do``, or by ``finish``.
    """

    def __init__(self, on: bool) -> None:
        """Begin with nothing to do."""
        self._pool = ThreadPoolExecutor(1, "behind") if on else None
        self._last: Future[None] | None = None

    def do(self, call: Callable[[], None]) -> None:
        """Have ``call`` done once the call before it is."""
        if self._pool is None:
            call()
            return
        last, self._last = self._last, None
        if last is not None:
            last.result()
        self._last = self._pool.submit(call)

    def end(self) -> None:
        """Wait until nothing is under way; an error of the last call is not told."""
        if self._pool is not None:
            self._pool.shutdown()

    def finish(self) -> None:
        """Wait until everything is done."""
        self.end()
        if self._last is not None:
            self._last.result()


def ahead(items: Iterable[T], on: bool) -> Iterator[T]:
    """Yield the items, each read while its caller works on the one before; off, when it is asked for."""
    if not on:
        yield from items
        return
    coming = iter(items)

    def one() -> list[T]:
        return list(islice(coming, 1))

    with ThreadPoolExecutor(1, "ahead") as pool:
        following = pool.submit(one)
        while found := following.result():
            following = pool.submit(one)
            yield from found
