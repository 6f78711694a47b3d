"""A lease: one builder per fingerprint among machines that share a remote.

A small object names who builds; its holder rewrites it with a new *beat* every few seconds. One whose beat
stands still for the lease's term belonged to somebody dead and is taken over. The waiting machine measures
the stillness with its own clock, so clocks may differ or jump.

A lease saves work; it guards nothing. Where two builders hold it at once (a file system without conditional
writes, a machine cut off for a minute), both build the same recipe and the mirror's layout keeps their
files apart (`pipeline_lib.core.mirror`).
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline_lib.core.errors import StoreError
from pipeline_lib.core.remote import Remote

POLLS = 60
BEATS = 4
"""How often within a lease's term one looks at it, and how often its holder shows that it lives."""


@dataclass(frozen=True)
class Lease:
    """The right to build under ``key``, for one holder."""

    remote: Remote
    key: str
    owner: str
    """Where the holder lives; within one owner another lock keeps builders apart."""
    term: float
    """Seconds without a beat after which the lease is anybody's."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lease for the block, waiting for as long as another owner's beat goes on."""
        token = uuid.uuid4().hex
        self._acquire(token)
        over = threading.Event()
        thread = threading.Thread(target=self._beat, args=(token, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._release(token)

    def _acquire(self, token: str) -> None:
        seen, since = b"", time.monotonic()
        while not self.remote.create(self.key, self._text(token, 0)):
            there = self.remote.read(self.key)
            if there is None:
                continue
            if there != seen:
                seen, since = there, time.monotonic()
            # The lock within this owner is ours by now: whoever left its lease behind is dead.
            if _field(there, "owner") == self.owner or time.monotonic() - since > self.term:
                self.remote.remove(self.key)
                continue
            time.sleep(self.term / POLLS)

    def _beat(self, token: str, over: threading.Event) -> None:
        count = 0
        while not over.wait(self.term / BEATS):
            count += 1
            try:
                if not self._is_ours(token):
                    return
                self.remote.write(self.key, self._text(token, count))
            except StoreError:
                continue

    def _release(self, token: str) -> None:
        try:
            if self._is_ours(token):
                self.remote.remove(self.key)
        except StoreError:
            # What was built is safe by now; a lease that stays behind runs out.
            return

    def _is_ours(self, token: str) -> bool:
        return bool(_field(self.remote.read(self.key) or b"", "token") == token)

    def _text(self, token: str, beat: int) -> bytes:
        return json.dumps({"owner": self.owner, "token": token, "beat": beat}).encode()


def _field(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)[name]
    except (ValueError, KeyError, TypeError):
        return None
