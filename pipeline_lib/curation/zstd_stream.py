"""A zstd stream that says where it breaks off.

The stream reader of ``zstandard`` takes a file that ends within a frame for a file that ends. Here that is an
EOFError, as it is with gzip. Frames one after the other are one stream.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

_BLOCK = 1 << 13
"""Packed bytes at a time: of a file made for it they become 256 MiB at once, and not gigabytes."""


def open_zstd(raw: BinaryIO) -> BinaryIO:
    """Return the decompressed bytes of ``raw``, buffered; reading raises EOFError where it breaks off."""
    return io.BufferedReader(_Frames(raw), 1 << 20)


class _Frames(io.RawIOBase):
    """The content of the frames of a binary stream."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._frame: Any = None
        self._packed = self._plain = b""
        self._start = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._start == len(self._plain):
            if not self._advance():
                return 0
        part = self._plain[self._start : self._start + len(buffer)]
        buffer[: len(part)] = part
        self._start += len(part)
        return len(part)

    def _advance(self) -> bool:
        """Decompress the next block; False at the end of the last frame."""
        import zstandard

        packed = self._packed or self._raw.read(_BLOCK)
        self._packed = b""
        if not packed:
            if self._frame is not None:
                raise EOFError("the compressed file ends before its content does")
            return False
        self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
        self._plain, self._start = self._frame.decompress(packed), 0
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None
        return True
