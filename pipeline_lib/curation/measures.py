"""Measures: how large a dataset is, how its conversations are built, how long they are, in which language.

Conversations, characters, turns and sources are counted over all of it. Lengths, languages and answers are
taken from a *sample* of bounded size, chosen by the hash of the id: the same conversations whatever the
shards, in memory that does not grow with the data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline_lib import records
from pipeline_lib.core.output import Output
from pipeline_lib.curation.languages import language_of
from pipeline_lib.kinds import Dataset

LANGUAGE_CHARACTERS = 200
"""What of a text its language is told by: one or two sentences are enough."""
LANGUAGE_LETTERS = 20
ANSWER_CHARACTERS = 100
ROLES = {"prompt": ("system", "user", "tool"), "answer": ("assistant", "text")}
YEAR = re.compile(r"\b(?:19|20)\d\d\b")
Count = Callable[[Sequence[str]], list[int]]


@dataclass
class Measures:
    """What was counted of all conversations, and what was measured of the sample."""

    conversations: int = 0
    characters: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    """Messages of a conversation, the preferred answer of a pair included."""
    sampled: int = 0
    lengths: dict[str, list[int]] = field(
        default_factory=lambda: {"prompt": [], "answer": [], "conversation": []}
    )
    """Tokens of all prompts of a conversation, of all its answers, and of both."""
    languages: Counter[str] = field(default_factory=Counter)
    """Languages of the answers."""
    answers: Counter[str] = field(default_factory=Counter)
    """How often each answer was given, by its beginning."""
    dated: int = 0
    """Conversations whose answer names a year."""

    def quantile(self, name: str, share: float) -> int | None:
        """Return the length that ``share`` of the sampled conversations do not exceed; None without any."""
        ordered = sorted(self.lengths[name])
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None

    def total(self, name: str) -> int:
        """Return the length of all conversations together, as the sample lets it be estimated."""
        return round(sum(self.lengths[name]) * self.conversations / self.sampled) if self.sampled else 0

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        shares = {"median": 0.5, "p95": 0.95, "p99": 0.99, "longest": 1.0}
        return {
            "conversations": self.conversations,
            "characters": self.characters,
            "sources": dict(sorted(self.sources.items())),
            "turns": {str(turns): count for turns, count in sorted(self.turns.items())},
            "sampled": self.sampled,
            "lengths": {
                name: {
                    "total": self.total(name),
                    **{title: self.quantile(name, share) for title, share in shares.items()},
                }
                for name in self.lengths
            },
            "languages": dict(sorted(self.languages.items())),
            "dated": self.dated,
        }


def measure(out: Output, dataset: Dataset, parts: Sequence[str], sample: int, count: Count) -> Measures:
    """Return the measures of some parts of a dataset; ``count`` gives the lengths of texts."""
    made = Measures()
    share = sample / max(1, sum(dataset.count(part) for part in parts))
    for batch in _batches(out, dataset, parts):
        _count_all(made, batch)
        chosen = [_place(name) < share for name in batch.column("id").to_pylist()]
        if any(chosen):
            _measure_sample(made, records.select(batch, chosen), count)
    return made


def _batches(out: Output, dataset: Dataset, parts: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        yield from records.tracked(out, dataset, f"{dataset.manifest.stage} {part}", part)


def _place(name: str) -> float:
    """Return a number in [0, 1) that an id always has."""
    return float(xxhash.xxh3_64_intdigest(name.encode()) / 2**64)


def _count_all(made: Measures, batch: pa.RecordBatch) -> None:
    made.conversations += batch.num_rows
    turns = _sizes(batch.column("messages"))
    made.turns.update(_counted(pc.add(turns, _sizes(batch.column("chosen")))))
    made.sources.update(_counted(batch.column("source")))
    for column in ("messages", "chosen"):
        texts = batch.column(column).flatten().field("content")
        made.characters += pc.sum(pc.utf8_length(texts)).as_py() or 0


def _sizes(lists: pa.ListArray) -> pa.Array:
    return pc.fill_null(pc.list_value_length(lists), 0)


def _counted(values: pa.Array) -> dict[Any, int]:
    return {one["values"].as_py(): one["counts"].as_py() for one in pc.value_counts(values)}


def _measure_sample(made: Measures, batch: pa.RecordBatch, count: Count) -> None:
    texts = {name: records.text_of(batch, roles, ("messages", "chosen")) for name, roles in ROLES.items()}
    made.sampled += batch.num_rows
    prompts, answers = count(texts["prompt"]), count(texts["answer"])
    made.lengths["prompt"] += prompts
    made.lengths["answer"] += answers
    # Their sum is the whole to a token or two, and counting takes most of the time.
    made.lengths["conversation"] += [one + other for one, other in zip(prompts, answers, strict=True)]
    for answer in texts["answer"]:
        language = language_of(answer[:LANGUAGE_CHARACTERS], LANGUAGE_LETTERS)
        made.languages[language or "too short to tell"] += 1
        made.answers[answer[:ANSWER_CHARACTERS]] += 1
        made.dated += YEAR.search(answer) is not None
