"""Tables: the rows of CSV and TSV files, with the header's names; a broken record takes no other with it."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from pipeline_lib.core.errors import DataError
from pipeline_lib.curation.rows import KEEP, LIMIT, Row, encoding_error, lines, said


def table(stream: BinaryIO, tab: bool) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file as dictionaries of strings, placed at their first line."""
    csv.field_size_limit(LIMIT)
    source = _Taken(_decoded(stream))
    head = next(source, "")
    source.give_back(0)
    reader = csv.reader(source, strict=True, delimiter="\t" if tab else _delimiter(head))
    header = _header(reader)
    while True:
        place = source.settled()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Row(place, None, f"is not CSV: {said(error)}{source.extent()}")
            source.give_back(1)
            continue
        if cells is None:
            return
        if cells:
            yield _table_row(place, header, cells)


class _Taken:
    """Lines, of which those that the last record took can be given back.

    After a quote that is opened and not closed, a record goes on to the next quote and is broken there: the
    lines between are records of their own.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._place = 1
        self._taken: list[str] = []
        self._given_back: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._given_back.popleft() if self._given_back else next(self._lines)
        self._taken.append(line)
        return line

    def settled(self) -> int:
        """Return the number of the line that comes next; what was taken before it is done with."""
        self._place += len(self._taken)
        self._taken = []
        return self._place

    def give_back(self, begin: int) -> None:
        """Give back what was taken, from the ``begin``-th line on."""
        self._given_back.extendleft(reversed(self._taken[begin:]))
        del self._taken[begin:]

    def extent(self) -> str:
        """Say where the quote that the first line opens is closed, if that is not in this line."""
        count = len(self._taken)
        return f" (its quote goes on to line {self._place + count - 1})" if count > 1 else ""


def _header(reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise DataError(
            f"the header is not CSV ({said(error)}); write the names of the columns there"
        ) from error
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"the header names {', '.join(map(repr, twice))[:200]} twice; rename one of them")
    return header


def _table_row(place: int, header: list[str], cells: list[str]) -> Row:
    joined = "".join(cells)
    if len(cells) != len(header):
        return Row(place, None, f"has {len(cells)} fields where the header has {len(header)}")
    if "\x00" in joined:
        return Row(place, None, "has a NUL byte")
    return Row(place, dict(zip(header, cells, strict=True)), encoding_error(joined))


def _decoded(stream: BinaryIO) -> Iterator[str]:
    for _, line in lines(stream):
        yield "\x00\n" if line is None else line.decode("utf-8", KEEP)


def _delimiter(head: str) -> str:
    return max(",;\t|", key=head.count) if head.count(",") == 0 else ","
