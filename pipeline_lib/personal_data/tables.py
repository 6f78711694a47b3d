"""Tables in a text: cells with their name in the head of the column, as in CSV, Markdown and SQL's INSERT.

There a value that its name alone makes personal (a password, a date of birth) stands far from it. So `detect`
shows ``name: cell`` to the detector of a kind whose word is in the name.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_INSERT = re.compile(r"\binsert\s+into\s+[\w.`\"\[\]]+\s*\(([^()]{1,400})\)\s*values\b", re.IGNORECASE)
_TUPLE = re.compile(r"[,\s]*(\((?:[^()'\"]|'[^']*'|\"[^\"]*\")*\))")
_NAME = r"[ \"]*[A-Za-z_][\w \"-]{0,40}"
_HEAD = re.compile(rf"^(\|?){_NAME}(?P<mark>[,;\t|]){_NAME}(?:(?P=mark){_NAME})*\|?[ \t]*\n", re.MULTILINE)
_RULE = re.compile(r"[ :|-]+\n")
"""The line below the head of a table in Markdown."""
_CELLS = {
    mark: re.compile(rf" *(?:'[^']*' *(?=[{mark}]|$)|\"[^\"]*\" *(?=[{mark}]|$)|[^{mark}]*)")
    for mark in ",;\t|"
}
Place = tuple[int, int]


class Cell(NamedTuple):
    """A cell at ``text[start:end]``, quotes left out, and the name of its column."""

    name: str
    start: int
    end: int


def cells(text: str, telling: re.Pattern[str]) -> Iterator[Cell]:
    """Yield the cells below telling names, row by row, up to the first row of another length."""
    for insert in _INSERT.finditer(text):
        names, place = _split(text, *insert.span(1), ","), insert.end()
        columns = _columns(text, names, telling)
        while columns and (row := _TUPLE.match(text, place)):
            place = row.end()
            yield from _named(text, names, columns, _split(text, row.start(1) + 1, place - 1, ","))
    done = 0
    for head in _HEAD.finditer(text):
        names = _row(text, *head.span(), head["mark"])
        columns = _columns(text, names, telling)
        if not columns or head.start() < done:
            continue
        rule = _RULE.match(text, head.end())
        done = rule.end() if rule else head.end()
        while len(found := _row(text, done, _line_end(text, done), head["mark"])) == len(names):
            yield from _named(text, names, columns, found)
            done = _line_end(text, done) + 1


def _line_end(text: str, start: int) -> int:
    return text.find("\n", start) % (len(text) + 1)


def _columns(text: str, names: list[Place], telling: re.Pattern[str]) -> list[int]:
    return [column for column, place in enumerate(names) if telling.search(text, *place)]


def _named(text: str, names: list[Place], columns: list[int], found: list[Place]) -> Iterator[Cell]:
    for column in (column for column in columns if column < len(found)):
        begin, end = names[column]
        yield Cell(text[begin:end], *found[column])


def _row(text: str, start: int, end: int, mark: str) -> list[Place]:
    """Return the places of a line's cells; Markdown's line begins and ends with the mark."""
    found = _split(text, start, end, mark)
    return [place for place in found if place[0] < place[1]] if mark == "|" else found


def _split(text: str, start: int, end: int, mark: str) -> list[Place]:
    """Return the places of the cells between two places, without white space and quotes around them."""
    found = []
    while start <= end:
        cell = _CELLS[mark].match(text, start, end)
        assert cell, "the pattern matches an empty cell"
        found.append(_bare(text, *cell.span()))
        start = cell.end() + 1
    return found


def _bare(text: str, start: int, end: int) -> Place:
    said = text[start:end]
    start += len(said) - len(said.lstrip(" \n`["))
    end -= len(said) - len(said.rstrip(" \n`]"))
    quoted = end - start >= 2 and text[start] == text[end - 1] and text[start] in "'\""
    return (start + 1, end - 1) if quoted else (start, max(start, end))
