"""Progress of long work, told to whoever listens.

Stages call ``Output.track``; the command line installs a listener that draws bars on stderr.
Without a listener nothing is shown and nothing is paid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Bar(Protocol):
    """One progress bar."""

    def advance(self, amount: float) -> None:
        """Move on by ``amount`` of the total."""

    def total(self, amount: float | None) -> None:
        """Say how long the whole is, where it is known by now."""

    def note(self, text: str) -> None:
        """Show a few words beside the bar (loss, tokens per second)."""

    def close(self) -> None:
        """Take the bar away."""


class Listener(Protocol):
    """Who looks at progress: the terminal, say."""

    def __call__(self, what: str, total: float | None, /) -> Bar:
        """Open a bar."""

    def mention(self, line: str, /) -> None:
        """Show a line that stays."""


_listener: ContextVar[Listener | None] = ContextVar("progress_listener", default=None)


class _Silent:
    def advance(self, amount: float) -> None:
        """Nobody looks."""

    def total(self, amount: float | None) -> None:
        """Nobody looks."""

    def note(self, text: str) -> None:
        """Nobody looks."""

    def close(self) -> None:
        """Nobody looks."""


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell ``listener`` of all progress within the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def bar(what: str, total: float | None = None) -> Iterator[Bar]:
    """Open a bar for ``what``; ``total`` is its length where it is known."""
    listener = _listener.get()
    opened: Bar = listener(what, total) if listener else _Silent()
    try:
        yield opened
    finally:
        opened.close()


def mention(line: str) -> None:
    """Show a line that stays: what the person who runs this should know, though nothing failed."""
    listener = _listener.get()
    if listener:
        listener.mention(line)


def track(
    iterable: Iterable[T], what: str, total: float | None = None, size: Callable[[T], float] | None = None
) -> Iterator[T]:
    """Yield from ``iterable`` and show how far it is; ``size`` says what each item counts for."""
    with bar(what, total) as opened:
        for item in iterable:
            yield item
            opened.advance(size(item) if size else 1)
