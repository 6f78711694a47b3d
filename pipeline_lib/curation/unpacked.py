"""Unpacked: a decompressed stream that ends where a small file claims to hold a disk full.

Real text takes a tenth of its size when it is packed, a log that repeats itself a hundredth; a file made to
fill a disk (a decompression bomb) a thousandth and less.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

TIMES = 200
"""How much larger than what was read of the file its content may be."""
FREE = 1 << 30
"""Bytes of content that every file may have."""


class BombError(Exception):
    """A file's content is out of all proportion to its size."""


def bounded(stream: Any, packed: BinaryIO) -> BinaryIO:
    """Return the content of ``packed`` as ``stream`` unpacks it; reading raises BombError."""
    return io.BufferedReader(_Bounded(stream, packed), 1 << 20)


class _Bounded(io.RawIOBase):
    def __init__(self, stream: Any, packed: BinaryIO) -> None:
        self._stream, self._packed, self._count = stream, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._stream.read1(len(buffer))
        self._count += len(part)
        if self._count > max(FREE, TIMES * self._packed.tell()):
            raise BombError(
                f"its content is over {TIMES} times its size; if that is meant, name the unpacked file"
            )
        buffer[: len(part)] = part
        return len(part)
