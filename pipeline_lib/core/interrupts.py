"""What asks a process to end: Ctrl-C, which a terminal sends to all in its foreground, and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class TerminatedError(BaseException):
    """The process was asked to end (SIGTERM)."""


@contextmanager
def spared() -> Iterator[None]:
    """Start processes that never see Ctrl-C: they inherit that the signal is blocked within the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
