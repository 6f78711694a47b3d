"""The evaluation's files: answers beside their references, what was not measured, and the score table.

Scores are read off the answers table alone, so that `gate` and a report can score any of its rows again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_lib.core.errors import DataError
from pipeline_lib.evaluation import metrics, statistics
from pipeline_lib.evaluation.preferences import preferences, with_ones
from pipeline_lib.evaluation.questions import judged_messages, prompt_messages
from pipeline_lib.evaluation.statistics import Floats, Interval, Statistic
from pipeline_lib.kinds import Dataset, Evaluation

ANSWERS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("prompt", pa.string()),
        ("reference", pa.string()),
        ("answer", pa.string()),
        ("stopped", pa.bool_()),
        ("nll", pa.float64()),
        ("tokens", pa.int64()),
        ("whole_nll", pa.float64()),
        ("whole_tokens", pa.int64()),
        ("answer_tokens", pa.int64()),
        ("rejected_nll", pa.float64()),
        ("label", pa.bool_()),
        ("reward", pa.float64()),
        ("metadata", pa.string()),
    ]
)
EXCLUDED = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
)
PUBLISHED_AS = {"words": "answer_words"}
"""Metrics whose name in the score table says more than their name among metrics of an answer."""
LIKELIHOODS = {"perplexity": ("nll", "tokens"), "perplexity_whole": ("whole_nll", "whole_tokens")}
"""The perplexities, and what each is computed from: of the learnt tokens, and of all."""
MOST_GROUPS = 12
OTHERS = "others"
SCORED = tuple(PUBLISHED_AS.get(name, name) for name in (*metrics.REFERENCED, *metrics.ALONE))


def measured_part(dataset: Dataset) -> str:
    """Return which part of a dataset is measured: the test split, or of one without splits what was kept."""
    return "test" if dataset.shards("test") else "kept"


def read_test(dataset: Dataset) -> pa.Table:
    """Return the measured part's id, source, messages, chosen answers, label and metadata, in order."""
    columns = ["id", "source", "messages", "chosen", "label", "metadata"]
    shards = [pq.read_table(shard, columns=columns) for shard in dataset.shards(measured_part(dataset))]
    return pa.concat_tables(shards) if shards else pa.table({name: [] for name in columns})


def answers(test: pa.Table, parts: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return every measured conversation with what came out for it, in the order of the test split."""
    found = sorted((row for part in parts for row in part["rows"]), key=lambda row: row["row"])
    asked = test.take([row["row"] for row in found]).to_pylist() if found else []
    rows = [{**row, **_question(item)} for row, item in zip(found, asked, strict=True)]
    return pa.Table.from_pylist(rows, ANSWERS)


def _question(item: Mapping[str, Any]) -> dict[str, Any]:
    prompt = prompt_messages(item)
    before = [{key: value for key, value in message.items() if value is not None} for message in prompt]
    return {
        "id": item["id"],
        "source": item["source"],
        "prompt": json.dumps(before, ensure_ascii=False),
        "reference": judged_messages(item)[len(prompt)]["content"],
        "label": item["label"],
        "metadata": item["metadata"],
    }


def excluded(test: pa.Table, parts: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return every conversation that was not measured, with its reason."""
    found = [item for part in parts for item in part["excluded"]]
    names = test.select(["id", "source"]).take([item["row"] for item in found]).to_pylist() if found else []
    return pa.Table.from_pylist([{**item, **name} for item, name in zip(found, names, strict=True)], EXCLUDED)


def reasons(table: pa.Table) -> dict[str, int]:
    """Return how many conversations each reason excludes."""
    return dict(sorted(Counter(table["reason"].to_pylist()).items()))


def write(directory: Path, answered_table: pa.Table, excluded_table: pa.Table) -> None:
    """Write both tables; the bytes depend on the rows alone."""
    pq.write_table(answered_table, directory / "answers.parquet", compression="zstd")
    pq.write_table(excluded_table, directory / "excluded.parquet", compression="zstd")


def wanted(table: pa.Table) -> pa.Table:
    """Return the rows whose reference is an answer to give: all but those labelled false."""
    return table.filter(pc.fill_null(table["label"], fill_value=True))


def answered(table: pa.Table) -> int:
    """Return for how many conversations the model was asked."""
    return sum(pc.is_valid(table["answer"]).to_pylist())


def signatures() -> dict[str, str]:
    """Return what exactly the metrics computed."""
    return metrics.signatures()


@dataclass(frozen=True)
class Measured:
    """What adds up to each score of a table's rows."""

    rows: dict[str, Floats]
    """Statistics by metric, shape (conversations that have it, columns)."""

    @staticmethod
    def statistic(metric: str) -> Statistic:
        """The function from sums of the metric's statistics to its score."""
        if metric in LIKELIHOODS:
            return statistics.exponential_ratio
        if metric == "reward_margin":
            return statistics.difference_of_ratios
        named = {PUBLISHED_AS.get(name, name): function for name, function in metrics.STATISTICS.items()}
        return named.get(metric, statistics.ratio)

    def interval(self, metric: str) -> Interval:
        """The corpus score with its bootstrap interval."""
        return statistics.bootstrap(self.rows[metric], self.statistic(metric))


def measure(table: pa.Table, other: pa.Table | None = None) -> Measured:
    """Return the statistics of perplexities (wanted rows) and of the answers' metrics (rows that have one).

    With the answers of an ``other`` model to the same conversations in the same order, also what takes two
    models: what it gained on the other in chosen and rejected answers, and how often its answers win.
    """
    likelihoods = {name: _likelihoods(wanted(table), *columns) for name, columns in LIKELIHOODS.items()}
    rows = {**likelihoods, **preferences(table, other)}
    said = table.filter(pc.is_valid(table["answer"]))
    if said.num_rows:
        rows |= _answer_statistics(said)
        rows["stopped"] = with_ones(said["stopped"].cast(pa.float64()).to_numpy())
    return Measured({name: found for name, found in rows.items() if len(found)})


def _likelihoods(table: pa.Table, nll: str, tokens: str) -> Floats:
    rows = statistics.likelihoods(table[nll].to_numpy(), table[tokens].to_numpy())
    return rows[rows[:, 1] > 0]


def _answer_statistics(said: pa.Table) -> dict[str, Floats]:
    scored = metrics.score_answers(said["answer"].to_pylist(), said["reference"].to_pylist())
    with_reference = metrics.REFERENCED if scored.referenced.any() else ()
    return {
        PUBLISHED_AS.get(name, name): scored.statistics(name) for name in (*with_reference, *metrics.ALONE)
    }


def scores(table: pa.Table) -> dict[str, dict[str, float]]:
    """Return every score of the answers with its interval."""
    measured = measure(table)
    return {name: _bounds(measured.interval(name)) for name in measured.rows}


def _bounds(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def slices(table: pa.Table, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return every score within every group of the slices named, with its interval and the group's size."""
    return {
        name: {
            group: {"count": int(mask.sum()), "scores": scores(table.filter(mask))}
            for group, mask in groups(table, name)
        }
        for name in names
    }


def groups(table: pa.Table, name: str) -> list[tuple[str, pa.Array]]:
    """Return the groups of a slice (``source``, ``length``, or a metadata key) with their rows as masks.

    Lengths are in words of the reference, in quarters of the table. Of other slices the `MOST_GROUPS` largest
    groups stand by themselves and the rest together; a conversation without the key is in none.
    """
    values = _lengths(table) if name == "length" else _values(table, name)
    sizes = Counter(value for value in values if value is not None)
    # Lengths come in their order, other groups by size.
    order = (
        list(dict.fromkeys(sorted(filter(None, values), key=lambda text: int(text.split()[0]))))
        if name == "length"
        else [value for value, _ in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))]
    )
    shown = order[:MOST_GROUPS]
    found = [(group, pa.array([value == group for value in values], pa.bool_())) for group in shown]
    if rest := set(order[MOST_GROUPS:]):
        found.append((OTHERS, pa.array([value in rest for value in values], pa.bool_())))
    return found


def _values(table: pa.Table, name: str) -> list[str | None]:
    if name == "source":
        return [str(value or "") for value in table["source"].to_pylist()]
    found = (json.loads(text or "{}").get(name) for text in table["metadata"].to_pylist())
    return [None if value is None else str(value) for value in found]


def _lengths(table: pa.Table) -> list[str | None]:
    words = np.array([len((text or "").split()) for text in table["reference"].to_pylist()])
    if not len(words):
        return []
    edges = sorted({int(edge) for edge in np.quantile(words, [0.25, 0.5, 0.75])})
    bounds = [(0, edges[0]), *((low + 1, high) for low, high in pairwise(edges)), (edges[-1] + 1, None)]
    names = [f"{low} words or more" if high is None else f"{low} to {high} words" for low, high in bounds]
    return [names[place] for place in np.searchsorted(edges, words)]


def paired(tuned: Evaluation, base: Evaluation) -> tuple[pa.Table, pa.Table]:
    """Return the answers of both models on the conversations that both were measured on, in one order.

    Both are counted in the first model's tokens, so that perplexities compare whatever the tokenizers are.
    Raises DataError where no conversation is shared.
    """
    ours, theirs = (pq.read_table(one.file("answers.parquet")) for one in (tuned, base))
    shared = set(ours["id"].to_pylist()) & set(theirs["id"].to_pylist())
    if not shared:
        raise DataError(
            f"gate: {base.address} and {tuned.address} share no conversation; evaluate both on one test split"
        )
    first, second = (_of(table, shared) for table in (ours, theirs))
    for _, tokens in LIKELIHOODS.values():
        second = second.set_column(second.schema.get_field_index(tokens), tokens, first[tokens])
    for column in ("answer", "reward", "rejected_nll"):
        both = pc.and_(pc.is_valid(first[column]), pc.is_valid(second[column]))
        first, second = (_only_where(both, table, column) for table in (first, second))
    return first, second


def _of(table: pa.Table, ids: set[str]) -> pa.Table:
    return table.filter(pc.is_in(table["id"], pa.array(sorted(ids)))).sort_by("id")


def _only_where(both: Any, table: pa.Table, column: str) -> pa.Table:
    """Take away what only one of the models has in a column."""
    kept = pc.if_else(both, table[column], pa.scalar(None, table.schema.field(column).type))
    return table.set_column(table.schema.get_field_index(column), column, kept)
