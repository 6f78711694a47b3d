"""A JSON array cut into its elements without holding it whole.

The cutter looks at brackets and strings alone and leaves the meaning of an element to a parser, so a broken
element spoils itself and not its neighbours. The state between two blocks is the depth of brackets and
whether a string is open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

_BLOCK = 1 << 20
# A string to its end, or to the end of the block; or one of the characters that structure is made of.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("|\\?\Z)|[\[\]{},]', re.DOTALL)
_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+("|\\?\Z)', re.DOTALL)


class _Cutter:
    """The elements of one array, as blocks of its bytes come in."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.depth = 0
        self.open_string = False
        self.escaped = False
        self.ended = False
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, block: bytes) -> Iterator[bytes | str]:
        """Yield the elements that end within ``block``; a string in place of one says what is wrong."""
        if self.ended:
            self._hold(block)
            return
        position, start = self._close_string(block), 0
        while match := _TOKEN.search(block, position):
            position = match.end()
            token = block[match.start()]
            if token == 0x22:
                self._note_string(match)
            elif token in b"[{":
                self.depth += 1
                if self.depth == 1:
                    start, self._parts, self._size = position, [], 0
            elif self.depth == 1:
                self._hold(block[start : match.start()])
                start = position
                yield from self._element(may_lack=token != 0x2C)
                if token != 0x2C:
                    self.depth, self.ended = 0, True
                    self._hold(block[start:])
                    return
            elif token != 0x2C:
                self.depth -= 1
        self._hold(block[start:])

    def rest(self) -> bytes:
        """Return the bytes that belong to no finished element."""
        return b"".join(self._parts).strip()

    def _close_string(self, block: bytes) -> int:
        if not self.open_string:
            return 0
        match = _REST.match(block, 1 if self.escaped else 0)
        if match is None:
            return 0
        self._note_string(match)
        return match.end()

    def _note_string(self, match: re.Match[bytes]) -> None:
        self.open_string = match[1] != b'"'
        self.escaped = match[1] == b"\\"

    def _hold(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self.limit:
            self._parts.append(part)

    def _element(self, may_lack: bool) -> Iterator[bytes | str]:
        element, size = self.rest(), self._size
        self._parts, self._size = [], 0
        if size > self.limit:
            yield f"is longer than {self.limit:,} bytes"
        elif element:
            yield element
        elif not may_lack:
            yield "is empty: nothing stands before the comma"


def elements(stream: BinaryIO, limit: int) -> Iterator[bytes | str]:
    """Yield the bytes of each element of the JSON array in ``stream``.

    A string in place of bytes says why an element cannot be had: it is longer than ``limit`` bytes, the file
    ends within it, or something follows the array.
    """
    cutter = _Cutter(limit)
    while block := stream.read(_BLOCK):
        yield from cutter.feed(block)
    if not cutter.ended:
        yield f"the file ends before the array does: {cutter.rest()[:60].decode('utf-8', 'replace')!r}"
    elif cutter.rest():
        yield f"something follows the array: {cutter.rest()[:60].decode('utf-8', 'replace')!r}"
