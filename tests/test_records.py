"""Rows go through batches, shards and changes of their texts without a loss."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib import records

CONTENTS = st.none() | st.text(alphabet="ab \n", max_size=4)
MESSAGES = st.lists(
    st.builds(
        lambda role, content, calls: {**records.message(role, ""), "content": content, "tool_calls": calls},
        st.sampled_from(records.ROLES),
        CONTENTS,
        st.none() | st.just("[]"),
    ),
    max_size=3,
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.just("x"),
            "source": st.none(),
            "messages": st.none() | MESSAGES,
            "tools": st.none(),
            "chosen": st.none() | MESSAGES,
            "rejected": st.none() | MESSAGES,
            "label": st.none() | st.booleans(),
            "metadata": st.none() | st.just("{}"),
        }
    ),
    max_size=6,
)


def changed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with every content in upper case, by plain Python."""
    lists = ("messages", "chosen", "rejected")

    def upper(message: dict[str, Any]) -> dict[str, Any]:
        return {**message, "content": message["content"] and message["content"].upper()}

    return [
        {key: [upper(m) for m in value] if key in lists and value else value for key, value in row.items()}
        for row in rows
    ]


@given(ROWS, st.integers(0, 3))
def test_contents_change_and_nothing_else_with_null_lists_and_slices(rows: list[Any], start: int) -> None:
    batch = records.from_rows(rows).slice(start)
    after, count = records.map_contents(batch, str.upper)
    assert after.to_pylist() == changed(rows[start:])
    assert after.schema.equals(records.SCHEMA)
    pairs = zip(batch.to_pylist(), after.to_pylist(), strict=True)
    texts = [
        (one["content"], two["content"])
        for old, new in pairs
        for column in ("messages", "chosen", "rejected")
        for one, two in zip(old[column] or [], new[column] or [], strict=True)
    ]
    assert count == sum(one != two for one, two in texts)


@given(ROWS, st.integers(0, 3))
def test_the_text_of_a_row_joins_what_its_roles_say(rows: list[Any], start: int) -> None:
    batch = records.from_rows(rows).slice(start)
    expected = [
        "\n\n".join(m["content"] for m in row["messages"] or [] if m["role"] == "user" and m["content"])
        for row in rows[start:]
    ]
    assert records.text_of(batch, ("user",)) == expected


def test_the_text_of_a_row_can_take_in_sides_and_tool_calls() -> None:
    call = {**records.message("assistant", ""), "tool_calls": "[1]"}
    rows = [{"messages": [call], "chosen": [records.message("assistant", "yes")]}, {"messages": None}]
    batch = records.from_rows(rows)
    assert records.text_of(batch, columns=("messages", "chosen"), fields=("content", "tool_calls")) == [
        "[1]\n\nyes",
        "",
    ]


def write(directory: Path, rows: list[dict[str, Any]], size: int) -> None:
    """Write the rows in batches of ``size``, every third dropped."""
    directory.mkdir()
    with records.DatasetWriter(directory) as writer:
        for begin in range(0, len(rows), size):
            fates = [("why", "so") if int(row["id"]) % 3 == 0 else None for row in rows[begin : begin + size]]
            writer.sift(records.from_rows(rows[begin : begin + size]), fates)
    assert writer.stats(len(rows)) == {
        "read": len(rows),
        "kept": len(rows) - -(-len(rows) // 3),
        "dropped": -(-len(rows) // 3),
        "reasons": {"why": -(-len(rows) // 3)},
    }


def test_shards_are_of_one_size_and_the_same_bytes_however_rows_arrive(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(records, "SHARD_ROWS", 40)
    rows = [{"id": str(i), "messages": [records.message("user", f"text {i}")]} for i in range(200)]
    for name, size in (("a", 200), ("b", 7), ("c", 1)):
        write(tmp_path / name, rows, size)
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert sorted(files) == [
        *(f"dropped-{i:05d}.parquet" for i in range(2)),
        *(f"kept-{i:05d}.parquet" for i in range(4)),
    ]
    for name in ("b", "c"):
        assert {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} == files
    kept = records.rows(sorted((tmp_path / "a").glob("kept-*")), 9)
    assert [int(row["id"]) for row in kept] == [i for i in range(200) if i % 3]


def test_a_dataset_of_no_rows_still_has_its_parts(tmp_path: Path) -> None:
    with records.DatasetWriter(tmp_path, ("train", "test")):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {
        "train-00000.parquet",
        "test-00000.parquet",
        "dropped-00000.parquet",
    }
    assert list(records.rows(sorted(tmp_path.iterdir()))) == []


def test_a_failed_block_writes_nothing(tmp_path: Path) -> None:
    try:
        with records.DatasetWriter(tmp_path) as writer:
            writer.keep(records.from_rows([{"id": "1"}]))
            raise KeyError
    except KeyError:
        assert list(tmp_path.iterdir()) == []


def test_select_takes_the_rows_of_the_mask() -> None:
    batch = records.from_rows([{"id": str(i)} for i in range(4)])
    assert records.select(batch, [True, False, False, True]).column("id") == pa.array(["0", "3"])
