"""Broken files of every sort end in rows dropped with reasons or one clear error; nothing is lost silently.

Each file goes the user's way, through ingest and all stages to format: what they choke on is here.
"""

import gzip
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline_lib.core.errors import FinetuneError
from pipeline_lib.core.store import Store
from pipeline_lib.curation import rows
from pipeline_lib.curation.decontaminate import DecontaminateConfig, decontaminate
from pipeline_lib.curation.deduplicate import DeduplicateConfig, deduplicate
from pipeline_lib.curation.export_data import export_data
from pipeline_lib.curation.filter import FilterConfig, filter
from pipeline_lib.curation.format import FormatConfig, format
from pipeline_lib.curation.ingest import IngestConfig, ingest
from pipeline_lib.curation.normalize import NormalizeConfig, normalize
from pipeline_lib.curation.scrub import ScrubConfig, scrub
from pipeline_lib.kinds import Dataset
from tests.curation.conftest import Workshop, found

GOOD = {"instruction": "Name a colour, any colour.", "output": "Blue is a colour that most people like."}
LINE = json.dumps(GOOD).encode() + b"\n"
LINES = LINE * 3


def _array(*items: Any) -> bytes:
    return json.dumps(items).encode()


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


PARQUET = _parquet(pa.Table.from_pylist([GOOD] * 3))
DEEP = b'{"instruction": "x", "output": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
SURROGATE = b'{"instruction": "lone \\ud800 half", "output": "\\udfff and so on"}\n'

# name, content, and (kept, dropped) where rows come out, or a word of the error where the file is refused.
CASES: list[tuple[str, bytes, tuple[int, int] | str]] = [
    ("truncated.jsonl", LINES + LINE[:20], (3, 1)),
    ("truncated.json", _array(GOOD, GOOD)[:-20], (1, 1)),
    ("truncated-at-once.json", b"[", "none of its first rows"),
    ("not-closed.json", _array(GOOD, GOOD)[:-1], (1, 1)),
    ("trailing-comma.json", _array(GOOD, GOOD)[:-1] + b",]", (2, 0)),
    ("two-arrays.json", _array(GOOD) + _array(GOOD), (1, 1)),
    ("bom.jsonl", b"\xef\xbb\xbf" + LINES, (3, 0)),
    ("bom-in-the-middle.jsonl", LINE + b"\xef\xbb\xbf" + LINE, (2, 0)),
    ("bom-at-the-end.jsonl", LINES + b"\xef\xbb\xbf", (3, 0)),
    ("bom.json", b"\xef\xbb\xbf" + _array(GOOD), (1, 0)),
    ("bom.csv", b"\xef\xbb\xbfinstruction,output\nName a colour,Blue is one of them.\n", (1, 0)),
    ("utf-16.jsonl", LINES.decode().encode("utf-16"), "UTF-16"),
    ("utf-32.jsonl", LINES.decode().encode("utf-32"), "UTF-32"),
    ("utf-16-without-mark.jsonl", LINES.decode().encode("utf-16-le"), "none of its first rows"),
    (
        "latin-1.jsonl",
        LINE + json.dumps({**GOOD, "output": "café"}, ensure_ascii=False).encode("latin-1") + b"\n",
        (1, 1),
    ),
    ("latin-1.csv", b"instruction,output\nName a colour,Blue is one of them.\nNom,caf\xe9\n", (1, 1)),
    ("latin-1.txt", "Ein Text über Öl.\n".encode("latin-1") + b"\nAnd plain text.\n", (1, 1)),
    ("nul.jsonl", LINE + LINE[:9] + b"\x00" + LINE[9:], (1, 1)),
    (
        "nul-escaped.jsonl",
        b'{"instruction": "a \\u0000 colour, please", "output": "Blue \\u0000 it is."}\n',
        (1, 0),
    ),
    ("nul.csv", b"instruction,output\nName a colour,Blue is one of them.\nA\x00,B\n", (1, 1)),
    ("nul.txt", b"A text.\n\nA \x00 text.\n", (1, 1)),
    ("only-nul.jsonl", b"\x00" * 5000, "none of its first rows"),
    ("deep.jsonl", LINE + DEEP, (1, 1)),
    ("deep.json", b"[" + LINE.strip() + b"," + DEEP.strip() + b"]", (1, 1)),
    ("deep-messages.jsonl", LINE + json.dumps({**GOOD, "output": {"a": {"b": {"c": 1}}}}).encode(), (1, 1)),
    (
        "mixed.jsonl",
        LINES + b'{"messages": [{"role": "user", "content": "Hi"}]}\n[1]\n"text"\n7\nnull\n',
        (3, 5),
    ),
    (
        "wrong-types.jsonl",
        LINES + b'{"instruction": 7, "output": true}\n{"instruction": [], "output": {}}\n',
        (4, 1),
    ),
    ("twice.jsonl", LINE + b'{"instruction": "a", "output": "b", "output": "c"}\n', (1, 1)),
    ("twice.json", b'[{"instruction": "a", "output": "b", "output": "c"},' + LINE.strip() + b"]", (1, 1)),
    ("twice.csv", b"instruction,output,output\na,b,c\n", "twice"),
    ("surrogate.jsonl", LINE + SURROGATE, (1, 1)),
    ("surrogate.json", b"[" + LINE.strip() + b"," + SURROGATE.strip() + b"]", (1, 1)),
    ("noncharacters.jsonl", json.dumps({**GOOD, "input": "\ufffe\uffff\U0010ffff"}).encode() + b"\n", (1, 0)),
    ("not-numbers.jsonl", LINE + b'{"instruction": "Give a number.", "output": NaN}\n', (1, 1)),
    ("huge-number.jsonl", LINE + b'{"instruction": "a", "output": 1e999}\n', (1, 1)),
    ("long-number.jsonl", LINE + b'{"instruction": "a", "output": ' + b"9" * 6000 + b"}\n", (1, 1)),
    ("empty.jsonl", b"", "no row"),
    ("empty.json", b"", "none of its first rows"),
    ("empty.csv", b"", "no row"),
    ("empty.txt", b"", "no row"),
    ("empty.parquet", b"", "not a Parquet file"),
    ("empty-list.json", b"[]", "no row"),
    ("empty-object.json", b"{}", "no format"),
    ("blank.jsonl", b"\n \n\r\n\t\n", "no row"),
    ("header-alone.csv", b"instruction,output\n", "no row"),
    ("no-rows.parquet", _parquet(pa.table({"instruction": pa.array([], pa.string())})), "no row"),
    ("ragged.csv", b"instruction,output\nName a colour,Blue is one of them.\na\na,b,c\n", (1, 2)),
    ("quote.csv", b'instruction,output\nName a colour,Blue is one of them.\n"a,b\n', (1, 1)),
    ("binary.jsonl", bytes(range(256)) * 40, "none of its first rows"),
    ("page.jsonl", b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "none of its first rows"),
    (
        "pointer.jsonl",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n",
        "none of its first rows",
    ),
    ("windows.jsonl", LINES.replace(b"\n", b"\r\n"), (3, 0)),
    ("old-mac.jsonl", LINES.replace(b"\n", b"\r"), "end with CR alone"),
    ("old-mac.csv", b"instruction,output\rName a colour,Blue is one of them.\r", "end with CR alone"),
    ("checksum.jsonl.gz", gzip.compress(LINES, mtime=0)[:-8] + b"\0" * 8, "cannot be opened"),
    ("not-gzip.jsonl.gz", LINES, "no gz header"),
    ("rubbish-after.jsonl.gz", gzip.compress(LINES) + b"rubbish", "cannot be opened"),
    ("two-members.jsonl.gz", gzip.compress(LINES) * 2, (6, 0)),
    ("empty.jsonl.gz", gzip.compress(b""), "no row"),
    ("truncated.jsonl.zst", zstandard.ZstdCompressor().compress(LINES * 500)[:-30], "cannot be opened"),
    ("not-zstd.jsonl.zst", LINES, "no zst header"),
    ("truncated.parquet", PARQUET[:-30], "cannot be opened"),
    ("damaged.parquet", PARQUET[:40] + b"\xff" * 40 + PARQUET[80:], "cannot be opened"),
    ("named-parquet.parquet", LINES, "not a Parquet file"),
    ("parquet.jsonl", PARQUET, (3, 0)),
    ("nested.parquet", _parquet(pa.table({"instruction": [[1], [2]], "output": ["a", "b"]})), (0, 2)),
    ("unknown.bin", b"\x7fELF" + bytes(100), "unknown container"),
]


def _curated(store: Store, raw: Dataset) -> Dataset:
    """Return what the stages after ingest make of a dataset; each accounts for what it read."""
    data = raw
    for stage, config in (
        (normalize, NormalizeConfig()),
        (scrub, ScrubConfig()),
        (deduplicate, DeduplicateConfig()),
        (filter, FilterConfig()),
        (decontaminate, DecontaminateConfig()),
        (format, FormatConfig(plain_text="keep")),
    ):
        made = Workshop(store).run(stage, config, data)
        assert made.manifest.stats["read"] == data.count()
        data = made
    return data


@pytest.mark.parametrize(("name", "content", "outcome"), CASES, ids=[case[0] for case in CASES])
def test_a_broken_file_is_rows_with_reasons_or_one_clear_error(
    tmp_path: Path, name: str, content: bytes, outcome: tuple[int, int] | str
) -> None:
    (tmp_path / name).write_bytes(content)
    store = Store(tmp_path / "store")
    recipe = ingest.recipe(IngestConfig.model_validate({"sources": [{"path": str(tmp_path / name)}]}))
    if isinstance(outcome, str):
        with pytest.raises(FinetuneError, match=outcome) as refused:
            store.materialize(recipe)
        assert "\n" not in str(refused.value)
        assert name in str(refused.value) or "ingest.sources" in str(refused.value)
        return
    raw = store.materialize(recipe).artifact
    counts = raw.manifest.stats
    assert counts["read"] == counts["kept"] + counts["dropped"]
    assert all(row["reason"] and name in row["detail"] for row in found(raw, "dropped"))
    assert (counts["kept"], counts["dropped"]) == outcome
    _curated(store, raw)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_large_compressed_file_that_breaks_off_gives_what_could_be_read(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    lines = b"".join(
        json.dumps({**GOOD, "input": f"{i * 7919 % 10007:x}" * 9}).encode() + b"\n" for i in range(9000)
    )
    packed = pack(lines)
    name = "large.jsonl.gz" if packed[:1] == b"\x1f" else "large.jsonl.zst"
    (tmp_path / name).write_bytes(packed[: len(packed) * 2 // 3])
    config = IngestConfig.model_validate({"sources": [{"path": str(tmp_path / name)}]})
    raw = Store(tmp_path / "store").materialize(ingest.recipe(config)).artifact
    (dropped,) = found(raw, "dropped")
    assert raw.count() > 1000
    assert dropped["reason"] == "unreadable"
    assert "breaks off" in dropped["detail"] or "is not JSON" in dropped["detail"]


def test_very_long_rows_are_read_or_dropped_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LIMIT", 4_000_000)
    long = [
        json.dumps({**GOOD, "output": text * (size // len(text))})
        for text, size in (
            ("A long answer, which goes on. ", 2_000_000),
            ("no-spaces-at-all-", 2_000_000),
            ("{[(", 1_000_000),
            ("1 2 3 4 5 6 7 8 9 0 ", 1_000_000),
            ("a@b.", 300_000),
            ("\n\n\n\n", 1_000_000),
            ("x", 5_000_000),
        )
    ]
    (tmp_path / "long.jsonl").write_text("\n".join(long))
    config = IngestConfig.model_validate({"sources": [{"path": str(tmp_path / "long.jsonl")}]})
    store = Store(tmp_path / "store")
    started = time.process_time()
    raw = store.materialize(ingest.recipe(config)).artifact
    _curated(store, raw)
    (dropped,) = found(raw, "dropped")
    assert dropped["detail"].startswith("long.jsonl:7: is longer than")
    assert time.process_time() - started < 60


@pytest.mark.slow
def test_a_line_of_over_a_hundred_megabytes_is_dropped_and_its_neighbours_are_kept(tmp_path: Path) -> None:
    with (tmp_path / "huge.jsonl").open("wb") as file:
        file.write(LINE + b'{"instruction": "Go on.", "output": "')
        for _ in range(120):
            file.write(b"and so on " * 100_000)
        file.write(b'"}\n' + LINE)
    store = Store(tmp_path / "store")
    config = IngestConfig.model_validate({"sources": [{"path": str(tmp_path / "huge.jsonl")}]})
    raw = store.materialize(ingest.recipe(config)).artifact
    (dropped,) = found(raw, "dropped")
    assert raw.count() == 2
    assert dropped["detail"].startswith("huge.jsonl:2: is longer than")
    assert raw.manifest.provenance.peak_memory_mb < 1500


def test_a_dataset_with_surrogates_in_place_of_characters_can_be_written_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE + SURROGATE)
    store = Store(tmp_path / "store")
    config = IngestConfig.model_validate({"sources": [{"path": str(tmp_path / "a.jsonl")}]})
    raw = store.materialize(ingest.recipe(config)).artifact
    (written,) = export_data(raw, "openai", tmp_path / "out")
    assert written.conversations == 1
