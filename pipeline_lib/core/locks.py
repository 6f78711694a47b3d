"""Locks between processes, released by the kernel when the holder dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` for the block, waiting for as long as another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


@contextmanager
def try_hold(path: Path) -> Iterator[bool]:
    """Hold the lock file ``path`` for the block if no other process has it, and say whether that is so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
