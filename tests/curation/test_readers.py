"""Rows come out of every container, and what is broken comes out with its place."""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.core.errors import DataError
from pipeline_lib.curation import json_array, rows, unpacked
from pipeline_lib.curation.readers import identify, read
from pipeline_lib.curation.rows import Row, parsed

ROWS = [{"text": f"row {i} é", "n": i} for i in range(5)]


def rows_of(data: bytes, name: str) -> list[Row]:
    """Return all rows of a file with this content and name."""

    def opened() -> BinaryIO:
        return io.BytesIO(data)

    container = identify(opened, name, lambda row: "text" in row)
    return [parsed(row) for row in read(opened, name, container)]


def values(found: list[Row]) -> list[Any]:
    """Return the values of the rows that could be read."""
    return [row.value for row in found if not row.error]


def errors(found: list[Row]) -> list[tuple[int, str]]:
    """Return place and error of the rows that could not be read."""
    return [(row.place, row.error) for row in found if row.error]


def _json_lines() -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def _arrow(new: Callable[..., Any]) -> bytes:
    sink, batch = io.BytesIO(), pa.RecordBatch.from_pylist(ROWS)
    with new(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue()


FILES = {
    "a.jsonl": _json_lines(),
    "a.json": json.dumps(ROWS).encode(),
    "pretty.json": json.dumps(ROWS, indent=2).encode(),
    "lines.json": _json_lines(),
    "inside.json": json.dumps({"version": 1, "data": ROWS}).encode(),
    "array.jsonl": json.dumps(ROWS).encode(),
    "bom.jsonl": b"\xef\xbb\xbf" + _json_lines(),
    "dos.jsonl": _json_lines().replace(b"\n", b"\r\n"),
    "no_end.jsonl": _json_lines().rstrip(),
    "unnamed": _json_lines(),
    "a.parquet": _parquet(),
    "parquet_by_content": _parquet(),
    "file.arrow": _arrow(pa.ipc.new_file),
    "stream.arrow": _arrow(pa.ipc.new_stream),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_every_container_gives_the_same_rows(name: str, compression: str) -> None:
    data = FILES[name]
    if compression == ".gz":
        data = gzip.compress(data)
    if compression == ".zst":
        data = zstandard.ZstdCompressor().compress(data)
    assert values(rows_of(data, name + compression)) == ROWS


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_small_file_that_would_fill_the_disk_is_refused_by_name(
    name: str, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacked, "FREE", 1 << 20)
    bomb, ending = pack(FILES[name] + bytes(1 << 24)), ".gz" if pack is gzip.compress else ".zst"
    with pytest.raises(DataError, match=rf"{name}{ending}: its content is over 200 times its size"):
        rows_of(bomb, name + ending)


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t")])
def test_tables_give_strings_placed_at_their_first_line(name: str, mark: str) -> None:
    data = (
        mark.join(["text", "n"])
        + "\n"
        + mark.join(['"two\nlines"', "1"])
        + "\n"
        + mark.join(["é", "2"])
        + "\n"
    )
    found = rows_of(data.encode(), name)
    assert [(row.place, row.value) for row in found] == [
        (2, {"text": "two\nlines", "n": "1"}),
        (4, {"text": "é", "n": "2"}),
    ]


def test_a_broken_line_is_named_and_its_neighbours_are_read() -> None:
    found = rows_of(
        b'{"text": "a"}\n{"text": \n\n{"text": "b"}\n\x00\n{"text": "\xff"}\n{"text": "\\ud800"}\n', "a.jsonl"
    )
    assert values(found) == [{"text": "a"}, {"text": "b"}]
    assert [place for place, _ in errors(found)] == [2, 5, 6, 7]


def test_a_key_that_stands_twice_is_an_error_and_not_a_silent_loss() -> None:
    assert errors(rows_of(b'{"text": "a", "text": "b"}\n', "a.jsonl")) == [
        (1, "key 'text' stands there twice")
    ]
    assert not errors(rows_of(b'{"text": "the \\"text\\"", "inner": {"text": 1}}\n', "a.jsonl"))


def test_not_a_number_is_read_as_null() -> None:
    assert values(rows_of(b'{"text": "a", "score": NaN}\n', "a.jsonl")) == [{"text": "a", "score": None}]


def test_deep_nesting_is_an_error_of_its_row() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    found = rows_of(b'{"text": ' + deep + b'}\n{"text": "b"}\n', "a.jsonl")
    assert values(found) == [{"text": "b"}]
    assert [place for place, _ in errors(found)] == [1]


def test_a_line_over_the_limit_is_an_error_of_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LIMIT", 100)
    data = b'{"text": "' + b"x" * 950 + b'"}\n{"text": "b"}\n'
    found = rows_of(data, "a.jsonl")
    assert values(found) == [{"text": "b"}]
    assert [place for place, _ in errors(found)] == [1]
    found = rows_of(b"[" + data.replace(b"\n", b",", 1) + b"]", "a.json")
    assert values(found) == [{"text": "b"}]
    assert [place for place, _ in errors(found)] == [1]


def test_an_array_that_breaks_off_says_so_in_its_last_row() -> None:
    found = rows_of(b'[{"text": "a"}, {"text": "b', "a.json")
    assert values(found) == [{"text": "a"}]
    assert [place for place, _ in errors(found)] == [2]
    assert "ends" in errors(found)[0][1]


def test_what_follows_an_array_is_not_lost_silently() -> None:
    assert len(errors(rows_of(b'[{"text": "a"}] [{"text": "b"}]', "a.json"))) == 1
    assert len(errors(rows_of(b'[{"text": "a"},,{"text": "b"}]', "a.json"))) == 1


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_compressed_file_that_breaks_off_gives_its_rows_and_says_so(
    compress: Callable[[bytes], bytes],
) -> None:
    lines = b"".join(json.dumps({"text": f"{i * 7919 % 10007} {i}"}).encode() + b"\n" for i in range(40_000))
    whole = compress(lines)
    found = rows_of(whole[: len(whole) // 2], "a.jsonl" + (".gz" if compress is gzip.compress else ".zst"))
    assert len(values(found)) > 1_000
    assert errors(found)


def test_a_compressed_text_that_breaks_off_keeps_what_was_read() -> None:
    words = " ".join(str(i * 7919 % 10007) for i in range(60_000))
    text = "\n".join(words[i : i + 80] for i in range(0, len(words), 80))
    whole = gzip.compress(text.encode())
    found = rows_of(whole[: len(whole) * 3 // 4], "a.txt.gz")
    assert len(errors(found)) == 1
    assert text.startswith("\n".join(values(found)))
    assert sum(map(len, values(found))) > len(text) // 2


def test_a_table_names_its_broken_rows() -> None:
    data = b'text,n\na,1\nb\nc,2,3\n"d"x,4\ne\x00,5\n\xff,6\nf,7\n"g,8\n'
    found = rows_of(data, "a.csv")
    assert values(found) == [{"text": "a", "n": "1"}, {"text": "f", "n": "7"}]
    assert [place for place, _ in errors(found)] == [3, 4, 5, 6, 7, 9]


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.booleans())
def test_a_quote_that_is_not_closed_costs_its_own_record_alone(good: list[bool], spread: bool) -> None:
    lines = ["text,n"]
    wanted = []
    for number, is_good in enumerate(good):
        if is_good:
            wanted.append((len(lines) + 1, {"text": "two\nlines" if spread else "word", "n": str(number)}))
            lines += [*('"two\nlines"' if spread else '"word"').split("\n")]
            lines[-1] += f",{number}"
        else:
            lines.append(f'"never closed,{number}')
    found = rows_of("".join(f"{line}\n" for line in lines).encode(), "a.csv")
    read = {row.place: row.value for row in found if not row.error}
    assert [read.get(place) for place, _ in wanted] == [value for _, value in wanted]
    assert len(errors(found)) == good.count(False)


def test_a_text_is_cut_at_blank_lines_and_nothing_of_it_is_lost() -> None:
    paragraphs = [f"paragraph {i} " + "word " * 300 for i in range(100)]
    found = rows_of("\n\n".join(paragraphs).encode(), "a.txt")
    assert 3 <= len(found) <= 6
    assert all(row.value.startswith("paragraph") for row in found)
    assert "\n\n".join(row.value for row in found).split() == "\n\n".join(paragraphs).split()


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("a.jsonl.gz", b"plain", "gz header"),
        ("a.gz.bin", b"\x00\x01\x02", "container"),
        ("a.parquet", b"nothing", "Parquet"),
        ("a.parquet", b"PAR1 and then nothing PAR1", "opened"),
        ("a.arrow", b"ARROW1\0\0 nothing", "opened"),
        ("a.json", b"\xff\xfe[\x00]\x00", "UTF-16"),
        ("a.jsonl.gz", b"\x1f\x8b\x08", "opened"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\xff\xff\xff\xff\xff\xff\xff\xff", "opened"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_refused(name: str, data: bytes, word: str) -> None:
    with pytest.raises(DataError, match=word) as caught:
        rows_of(data, name)
    assert "\n" not in str(caught.value)


class _Blocks(io.BytesIO):
    """A stream that gives few bytes at a time."""

    def __init__(self, data: bytes, sizes: Iterator[int]) -> None:
        super().__init__(data)
        self._sizes = sizes

    def read(self, size: int | None = -1) -> bytes:
        return super().read(next(self._sizes))


JSON = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(JSON), st.lists(st.integers(1, 7), min_size=1))
def test_an_array_is_cut_where_a_parser_would_cut_it_whatever_the_blocks(
    items: list[Any], sizes: list[int]
) -> None:
    def endless() -> Iterator[int]:
        while True:
            yield from sizes

    stream = _Blocks(json.dumps(items, ensure_ascii=False).encode(), endless())
    found = [
        json.loads(element) for element in json_array.elements(stream, 10_000) if isinstance(element, bytes)
    ]
    assert found == items


@given(
    st.binary(max_size=300),
    st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.arrow", "a"]),
)
def test_any_bytes_are_rows_or_a_clear_error(data: bytes, name: str) -> None:
    try:
        rows_of(data, name)
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize("name", ["a.json", "a.parquet", "stream.arrow", "file.arrow", "a.jsonl"])
@given(place=st.integers(0, 10_000), value=st.integers(0, 255), keep=st.integers(1, 10_000))
def test_a_damaged_file_is_rows_or_a_clear_error(name: str, place: int, value: int, keep: int) -> None:
    data = bytearray(FILES[name])
    data[place % len(data)] = value
    try:
        found = rows_of(bytes(data[: 1 + keep % len(data)]), name)
    except DataError:
        return
    assert all(row.place > 0 for row in found)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be opened"):
        identify((tmp_path / "none.jsonl").open, "none.jsonl", bool)  # type: ignore[arg-type]
