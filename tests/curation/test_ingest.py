"""Every row of every source is kept, or dropped with its place and a reason."""

import gzip
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline_lib import records
from pipeline_lib.core import progress
from pipeline_lib.core.errors import ConfigError, DataError, FinetuneError
from pipeline_lib.core.output import Output
from pipeline_lib.core.outside import FileDigests
from pipeline_lib.core.store import Store
from pipeline_lib.curation.arrivals import Occurrences
from pipeline_lib.curation.blocks import Outcome
from pipeline_lib.curation.ingest import IngestConfig, ingest
from pipeline_lib.curation.reading import Run, conversations_of
from pipeline_lib.curation.sources import Source, digest_of_files, files_of, source_digests
from pipeline_lib.curation.workers import fork_server
from pipeline_lib.settings import settings

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
Row = dict[str, Any]


class Ingested:
    """What one run of the stage wrote."""

    def __init__(self, out: Output) -> None:
        self.stats = out.stats
        self.path = out.path
        self.kept = list(records.rows(sorted(out.path.glob("kept-*.parquet"))))
        self.dropped = list(records.rows(sorted(out.path.glob("dropped-*.parquet"))))


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the memo of digests out of the project."""
    monkeypatch.setenv("FINETUNE_STORE", str(tmp_path / "state" / "store"))
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ingested]:
    """Return a function that ingests sources and holds the account against the rows."""
    numbers = itertools.count()

    def ingested(*sources: Row) -> Ingested:
        path = tmp_path / f"out-{next(numbers)}"
        path.mkdir()
        out = Output("ingest", path, tmp_path / "work")
        ingest.function(out, IngestConfig.model_validate({"sources": sources}))
        result = Ingested(out)
        assert out.stats["read"] == out.stats["kept"] + out.stats["dropped"]
        assert (out.stats["kept"], out.stats["dropped"]) == (len(result.kept), len(result.dropped))
        assert sum(out.stats["reasons"].values()) == len(result.dropped)
        ids = [row["id"] for row in result.kept + result.dropped]
        assert len(set(ids)) == len(ids)
        return result

    return ingested


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes rows as JSON Lines."""

    def written(name: str, *rows: Row | str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return written


def exchange(i: object) -> Row:
    """Return an Alpaca row."""
    return {"instruction": f"question {i}", "input": "", "output": f"answer {i}", "topic": "t"}


def test_a_row_becomes_a_record_with_its_place_and_further_columns(run: Any, write: Any) -> None:
    result = run({"path": str(write("data.jsonl", exchange(1), exchange(2)))})
    row = result.kept[1]
    assert [(m["role"], m["content"]) for m in row["messages"]] == [
        ("user", "question 2"),
        ("assistant", "answer 2"),
    ]
    assert json.loads(row["metadata"]) == {"topic": "t", "file": "data.jsonl", "line": 2}
    assert row["source"] == "data.jsonl"
    assert pq.read_schema(result.path / "kept-00000.parquet").equals(records.SCHEMA)


def test_broken_and_foreign_rows_are_dropped_with_their_place(run: Any, write: Any) -> None:
    path = write(
        "data.jsonl", exchange(1), '{"instruction": ', {"title": "x"}, "[1]", exchange(2), '{"a": "\\ud800"}'
    )
    result = run({"path": str(path)})
    assert result.stats["reasons"] == {"unreadable": 2, "unrecognised": 2}
    assert [row["detail"].split(": ")[0] for row in result.dropped] == [
        f"data.jsonl:{n}" for n in (2, 3, 4, 6)
    ]
    assert [json.loads(row["metadata"])["line"] for row in result.dropped] == [2, 3, 4, 6]
    assert all(row["messages"] == [] for row in result.dropped)


def test_ids_come_from_content_and_exact_repeats_are_told_apart(run: Any, write: Any) -> None:
    first = run({"path": str(write("a.jsonl", exchange(1), exchange(1), exchange(2)))})
    second = run({"path": str(write("b/other.jsonl", exchange(0), exchange(2), exchange(1)))})
    ids = [row["id"] for row in first.kept]
    assert len(set(ids)) == 3
    assert {len(identity) for identity in ids} == {32}
    assert [row["id"] for row in second.kept][1:] == [ids[2], ids[0]]


def test_two_runs_write_the_same_bytes(run: Any, write: Any) -> None:
    path = write("a.jsonl", *(exchange(i % 70) for i in range(100)), "broken")
    one, two = run({"path": str(path)}), run({"path": str(path)})
    for file in sorted(one.path.iterdir()):
        assert file.read_bytes() == (two.path / file.name).read_bytes()


def test_a_folder_is_read_by_name_and_every_file_in_its_own_format(
    run: Any, write: Any, tmp_path: Path
) -> None:
    write(
        "in/b/chat.jsonl",
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    )
    write("in/a.jsonl", exchange(1))
    write("in/README.md", "about the data")
    write("in/.hidden.jsonl", exchange(2))
    (tmp_path / "in/c.jsonl.gz").write_bytes(gzip.compress(b'{"question": "q", "answer": "b"}\n'))
    result = run({"path": str(tmp_path / "in")})
    assert [json.loads(row["metadata"])["file"] for row in result.kept] == [
        "a.jsonl",
        "b/chat.jsonl",
        "c.jsonl.gz",
    ]
    assert result.stats["sources"][0]["format"] == "alpaca, openai, prompt_completion"
    assert len(run({"path": str(tmp_path / "in/**/*.jsonl")}).kept) == 3


def test_a_file_address_and_a_remote_address_are_read_like_a_path(run: Any, write: Any) -> None:
    import fsspec

    path = write("data.jsonl", exchange(1))
    with fsspec.open("memory://bucket/data.jsonl", "wb") as file:
        file.write(path.read_bytes())
    local, remote = run({"path": f"file://{path}"}), run({"path": "memory://bucket/data.jsonl"})
    assert local.kept == remote.kept
    assert local.stats["sources"][0]["digest"] == remote.stats["sources"][0]["digest"]
    assert len(run({"path": "memory://bucket"}).kept) == 1


def test_columns_are_mapped_and_a_taken_name_is_not_lost(run: Any, write: Any) -> None:
    path = write("data.jsonl", {"ask": "q", "reply": "a", "output": "other", "line": 7})
    [row] = run({"path": str(path), "columns": {"instruction": "ask", "output": "reply"}}).kept
    assert [m["content"] for m in row["messages"]] == ["q", "a"]
    assert json.loads(row["metadata"]) == {
        "column.output": "other",
        "column.line": 7,
        "file": "data.jsonl",
        "line": 1,
    }


def test_limit_keeps_the_first_and_weight_a_share_that_is_always_the_same(run: Any, write: Any) -> None:
    path = str(write("data.jsonl", *(exchange(i) for i in range(1_000))))
    assert [row["messages"][0]["content"] for row in run({"path": path, "limit": 3}).kept] == [
        f"question {i}" for i in range(3)
    ]
    half = run({"path": path, "weight": 0.5})
    assert 420 < len(half.kept) < 580
    assert set(half.stats["reasons"]) == {"not_sampled"}
    assert {row["id"] for row in run({"path": path, "weight": 0.2}).kept} < {row["id"] for row in half.kept}


def test_sources_keep_their_order_and_their_account(run: Any, write: Any) -> None:
    paths = [str(write(f"{name}/data.jsonl", exchange(name))) for name in ("b", "a")]
    result = run(*({"path": path} for path in paths))
    assert [row["source"] for row in result.kept] == ["data.jsonl", "data.jsonl#2"]
    for source in result.stats["sources"]:
        assert (source["rows"], source["kept"], source["files"], source["container"]) == (1, 1, 1, "jsonl")


def test_rows_from_parquet_have_the_ids_of_the_same_rows_from_json(
    run: Any, write: Any, tmp_path: Path
) -> None:
    path = write("data.jsonl", exchange(1), exchange(2))
    pq.write_table(pa.Table.from_pylist([exchange(1), exchange(2)]), tmp_path / "data.parquet")
    lines, parquet = run({"path": str(path)}), run({"path": str(tmp_path / "data.parquet")})
    assert [row["id"] for row in lines.kept] == [row["id"] for row in parquet.kept]
    assert json.loads(parquet.kept[1]["metadata"])["row"] == 2


def test_preferences_and_labels_have_their_columns(run: Any, write: Any) -> None:
    [pair] = run({"path": str(write("p.jsonl", {"prompt": "q", "chosen": "a", "rejected": "b"}))}).kept
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"], pair["label"]) == ("a", "b", None)
    [vote] = run({"path": str(write("f.jsonl", {"prompt": "q", "completion": "a", "label": False}))}).kept
    assert (vote["label"], vote["chosen"]) == (False, None)


def test_the_digest_follows_the_content_and_not_the_folder(run: Any, write: Any) -> None:
    def digest(path: Path) -> str:
        return source_digests(IngestConfig.model_validate({"sources": [{"path": str(path)}]}))["source.0"]

    one, same = write("a/data.jsonl", exchange(1)), write("b/data.jsonl", exchange(1))
    other = write("c/data.jsonl", exchange(2))
    assert digest(one) == digest(same) != digest(other)
    one.unlink()
    with pytest.raises(DataError, match="no such file"):
        digest(one)


def test_markup_and_encoding_damage_are_counted_and_kept(run: Any, write: Any) -> None:
    odd = ["<p>Is <b>this</b> a page?</p>", "CafÃ© au lait", "A \ufffd was lost", "1 < 2 and 3 > 2", "Café"]
    path = write("odd.jsonl", *({"instruction": text, "output": "An answer."} for text in odd))
    made = run({"path": str(path)})
    assert made.stats["suspect"] == {"markup": 1, "mojibake": 1, "replacement_character": 1}
    assert [row["messages"][0]["content"] for row in made.kept] == odd


def test_the_manifest_says_of_every_source_what_it_was_and_what_came_of_it(run: Any, write: Any) -> None:
    first = write("one.jsonl", *(exchange(i) for i in range(20)))
    second = write("two.json", *(exchange(i) for i in range(5)))
    stats = run({"path": str(first), "weight": 0.5}, {"path": str(second), "limit": 3}).stats
    one, two = stats["sources"]
    assert (one["source"], one["container"], one["format"]) == ("one.jsonl", "jsonl", "alpaca")
    assert one["files"] == two["files"] == 1
    assert (two["rows"], two["kept"], two["dropped"]) == (3, 3, 0)
    assert one["rows"] == 20 == one["kept"] + one["reasons"]["not_sampled"]
    assert one["bytes"] == first.stat().st_size
    assert len({one["digest"], two["digest"]}) == 2
    assert stats["kept"] == one["kept"] + two["kept"]


def test_a_pinned_hub_dataset_needs_no_network(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached, commit = tmp_path / "datasets--owner--name", "0123456789" * 4
    (cached / "snapshots" / commit / "data").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for revision in (None, commit):
        config = IngestConfig.model_validate({"sources": [{"hub": "owner/name", "revision": revision}]})
        assert source_digests(config) == {"source.0": f"owner/name@{commit}"}


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.jsonl", b"", "no row"),
        ("a.jsonl", b"\n\n", "no row"),
        ("a.jsonl", b"nonsense\n", "none of its first rows"),
        ("a.jsonl", b'{"alpha": 1}\n', "alpha"),
        ("a.bin", b"\x00\x01", "container"),
        ("a.jsonl.gz", b"not gzip", "header"),
        ("a.csv", b'"broken"header,b\n1,2\n', "header"),
        ("a.csv", b"text,text\n1,2\n", "twice"),
        ("a.json", b'{"a": [{"x": 1}], "b": [{"x": 2}]}', "several lists"),
    ],
)
def test_a_file_that_cannot_be_used_stops_before_anything_is_written(
    run: Any, tmp_path: Path, name: str, content: bytes, word: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=word) as caught:
        run({"path": str(tmp_path / name)})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert not list((tmp_path / "out-0").iterdir())


@pytest.mark.parametrize("path", ["none.jsonl", "*.none", "empty"])
def test_a_path_without_data_is_an_error_that_names_it(run: Any, tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="check the source's path"):
        run({"path": str(tmp_path / path)})


def test_a_format_that_no_row_has_is_an_error_that_names_both(run: Any, write: Any) -> None:
    path = write("talks.jsonl", *[{"instruction": "a", "output": "b"}] * 3)
    with pytest.raises(
        DataError, match=r"talks\.jsonl: none of its first 3 rows is sharegpt; leave format out"
    ):
        run({"path": str(path), "format": "sharegpt"})


def test_a_mapped_column_that_is_not_there_is_named_with_the_likely_one(run: Any, write: Any) -> None:
    with pytest.raises(DataError, match="did you mean 'reply'"):
        run(
            {
                "path": str(write("a.jsonl", {"ask": "q", "reply": "a"})),
                "columns": {"prompt": "ask", "completion": "repli"},
            }
        )


@pytest.mark.parametrize(
    ("columns", "rows", "says"),
    [
        (
            {"prompt": "reply", "completion": "repli"},
            {"ask": "q", "reply": "a"},
            "columns.completion: .* did you",
        ),
        ({"ask": "prompt", "reply": "completion"}, {"ask": "q", "reply": "a"}, "first: {prompt: ask}"),
        ({"prompt": "ask"}, "a text", "texts without columns; leave columns out"),
    ],
)
def test_a_mapping_that_the_file_does_not_bear_out_says_what_to_write(
    run: Any, write: Any, columns: dict[str, str], rows: Any, says: str
) -> None:
    path = write("in/a.jsonl", json.dumps(rows))
    with pytest.raises(DataError, match=says) as caught:
        run({"path": str(path), "columns": columns})
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"promt": "ask", "completion": "reply"}, "no format knows a column 'promt'; did you mean 'prompt'"),
        ({"anwser": "reply"}, "did you mean 'answer'"),
        ({"prompt": "ask", "text": "ask"}, "prompt and text are both to be the file's 'ask'"),
    ],
)
def test_a_mapping_that_no_format_could_use_is_an_error_of_the_config(
    columns: dict[str, str], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        Source.model_validate({"path": "a", "columns": columns})


@pytest.mark.parametrize("name", ["theme", "prompt_id", "group"])
def test_a_name_of_the_metadata_may_be_mapped(run: Any, write: Any, name: str) -> None:
    path = write("data.jsonl", {**exchange(1), "subject": "loops"})
    [row] = run({"path": str(path), "columns": {name: "subject"}}).kept
    assert json.loads(row["metadata"])[name] == "loops"


class Listener:
    """Keeps the lines that a person would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, what: str, total: float | None) -> Any:
        return progress._Silent()

    def mention(self, line: str) -> None:
        self.lines.append(line)


def test_a_source_that_gives_nothing_is_named_with_the_first_reason(run: Any, write: Any) -> None:
    empty, full = write("empty.jsonl"), write("full.jsonl", exchange(1))
    foreign = write("foreign.jsonl", '{"messages": [{"role": "?", "content": "x"}]}')
    said = Listener()
    with progress.listening(said):
        assert len(run({"path": str(empty)}, {"path": str(foreign)}, {"path": str(full)}).kept) == 1
    first = "unrecognised 1; the first: foreign.jsonl:1: a message has the role '?'"
    assert said.lines[0] == f"{empty}: no row at all"
    assert said.lines[1].startswith(f"{foreign}: 0 of 1 rows kept ({first}")
    assert len(said.lines) == 2


@pytest.mark.parametrize("given", ["data.jsonl", {"path": "data.jsonl"}])
def test_sources_that_are_no_list_say_how_one_is_written(given: Any) -> None:
    with pytest.raises(ValidationError, match=r"sources is a list: write \[{path: "):
        IngestConfig.model_validate({"sources": given})


def test_no_source_is_an_error_of_the_config() -> None:
    with pytest.raises(ConfigError, match=r"ingest\.sources"):
        source_digests(IngestConfig())


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"path": "a", "hub": "b"},
        {"name": "other"},
        {"path": "a", "weight": 2},
        {"path": "a", "revision": "main"},
        {"path": "a", "limit": 0},
        "a.jsonl",
        {"path": "a", "format": "csv"},
        {"name": "pydocs", "columns": {"a": "b"}},
    ],
)
def test_a_source_that_makes_no_sense_is_refused(source: Row | str) -> None:
    with pytest.raises(ValidationError):
        Source.model_validate(source)


@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=20))
def test_occurrences_are_counted_as_a_dictionary_would(batches: list[list[int]]) -> None:
    seen: dict[int, int] = {}
    counted = Occurrences()
    for batch in batches:
        expected = []
        for key in batch:
            expected.append(seen.get(key, 0))
            seen[key] = expected[-1] + 1
        assert counted.numbers(np.array(batch, dtype=np.uint64)) == expected


FUZZ = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(lambda text: json.dumps({"instruction": text, "output": text}).encode()),
    st.sampled_from(
        [b'{"instruction": "\\ud800", "output": "b"}', b'{"instruction": {}, "output": []}', b"[" * 2_000]
    ),
)


@given(lines=st.lists(FUZZ, max_size=12), cut=st.integers(0, 30), compressed=st.booleans())
def test_any_file_is_accounted_for_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cut: int, compressed: bool
) -> None:
    home = tmp_path_factory.mktemp("fuzz")
    data = b"\n".join([b'{"instruction": "a", "output": "b"}', *lines])
    data = gzip.compress(data) if compressed else data
    path = home / ("a.jsonl.gz" if compressed else "a.jsonl")
    path.write_bytes(data[: len(data) - cut])
    out = Output("ingest", home, home)
    try:
        ingest.function(out, IngestConfig(sources=(Source(path=str(path)),)))
    except FinetuneError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
        return
    assert out.stats["read"] == out.stats["kept"] + out.stats["dropped"] > 0


REAL = {
    "alpagasus/data/filtered/claude_t45.json": ("alpaca", 5_305),
    "gsm8k/grade_school_math/data/test.jsonl": ("prompt_completion", 1_319),
    "llama-factory/data/dpo_en_demo.json": ("preference", 299),
    "llama-factory/data/glaive_toolcall_en_demo.json": ("sharegpt", 300),
    "llama-factory/data/kto_en_demo.json": ("feedback", 300),
    "llama-factory/data/reason_tool_use_demo_50.jsonl": ("openai", 50),
    "open-assistant/model/model_eval/manual/data/en_100_tree.jsonl": ("oasst_tree", 626),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_whole(run: Any, name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip("real data are not at hand")
    result = run({"path": str(DATA / name)})
    assert (result.stats["sources"][0]["format"], len(result.kept)) == REAL[name]
    assert not result.dropped


def _lines(begin: int, end: int) -> bytes:
    rows = [
        json.dumps({"instruction": f"What is {n}?", "output": f"A number, {n}."}) for n in range(begin, end)
    ]
    return "".join(f"{row}\n" for row in (*rows[:-1], "{broken", rows[begin % 7], rows[-1])).encode()


def test_a_file_that_grows_costs_its_new_rows_and_has_the_bytes_of_one_that_was_always_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: list[int] = []

    def counted(run: Run) -> Outcome:
        worked.append(len(run.rows))
        return conversations_of(run)

    monkeypatch.setattr("pipeline_lib.curation.intake.RUN_ROWS", 16)
    monkeypatch.setattr("pipeline_lib.curation.intake.conversations_of", counted)
    monkeypatch.setenv("FINETUNE_WORKERS", "1")
    settings.cache_clear()
    path = tmp_path / "data.jsonl"
    config = IngestConfig(sources=(Source(path=str(path)),))
    path.write_bytes(_lines(0, 200))
    Store(tmp_path / "grown").materialize(ingest.recipe(config))
    assert sum(worked) == 202
    worked.clear()
    path.write_bytes(_lines(0, 200) + _lines(500, 510))
    grown = Store(tmp_path / "grown").materialize(ingest.recipe(config)).artifact
    assert sum(worked) < 12 + 16
    fresh = Store(tmp_path / "fresh").materialize(ingest.recipe(config)).artifact
    assert (grown.digest, grown.manifest.stats) == (fresh.digest, fresh.manifest.stats)
    assert grown.manifest.stats["reasons"] == {"unreadable": 2}


@pytest.mark.parametrize("limit", [None, 1, 37, 1000])
def test_other_processes_read_the_same(
    limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline_lib.curation.intake.RUN_ROWS", 16)
    monkeypatch.setattr("pipeline_lib.curation.workers._AT_HOME", 1)
    (tmp_path / "one.jsonl").write_bytes(_lines(0, 90))
    (tmp_path / "two.csv").write_text("prompt,completion\n" + '"a\nb",c\n' * 50)
    sources = (Source(path=str(tmp_path / "one.jsonl"), limit=limit), Source(path=str(tmp_path / "two.csv")))
    made = []
    fork_server().result()
    for workers in (1, 3):
        monkeypatch.setenv("FINETUNE_WORKERS", str(workers))
        settings.cache_clear()
        store = Store(tmp_path / str(workers))
        made.append(store.materialize(ingest.recipe(IngestConfig(sources=sources))).artifact)
    one, many = made
    assert (one.digest, one.manifest.stats) == (many.digest, many.manifest.stats)
    assert one.manifest.stats["sources"][0]["kept"] == min(limit or 91, 91)
    assert one.manifest.stats["sources"][1]["kept"] == 50


@pytest.mark.parametrize("shut", ["", "inner", "inner/a.jsonl"])
def test_what_may_not_be_looked_into_ends_in_one_line_and_is_never_passed_over(shut: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name, "data")
        (folder / "inner").mkdir(parents=True)
        (folder / "a.jsonl").write_bytes(_lines(0, 1))
        (folder / "inner" / "a.jsonl").write_bytes(_lines(0, 1))
        Path(name).chmod(0o755)
        Path(folder, shut).chmod(0)
        with _as_nobody(), pytest.raises(DataError, match=f"{shut}: cannot be read .* check the path"):
            digest_of_files(files_of(Source(path=str(folder))), FileDigests(Path(name, "memo")))
        Path(folder, shut).chmod(0o700)


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Be a user to whom permissions apply: to root they do not."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)
