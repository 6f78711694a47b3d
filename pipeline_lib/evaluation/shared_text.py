"""What answers and test conversations share with the training data, in one pass over it.

Memory depends on the answers and the test split; the training data stream by.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_lib import canaries, records
from pipeline_lib.evaluation.statistics import share
from pipeline_lib.evaluation.verbatim import Passage, Passages, words_of
from pipeline_lib.kinds import Dataset, Evaluation
from pipeline_lib.personal_data.detect import find, suspicious
from pipeline_lib.personal_data.masking import mask

if TYPE_CHECKING:
    from pipeline_lib.core.output import Output
    from pipeline_lib.evaluation.audit import AuditConfig

SHOWN = 5
ANSWERING = ("assistant",)
ASKING = ("system", "user", "tool", "text")


@dataclass(frozen=True)
class Shared:
    """The audit's figures that need no model, and the longest passages that answers repeat."""

    figures: dict[str, Any]
    passages: list[dict[str, Any]]


@dataclass(frozen=True)
class _Value:
    """One value of personal data in an answer."""

    row: int
    kind: str
    text: str


def compare_with_training(
    out: Output, config: AuditConfig, dataset: Dataset, evaluation: Evaluation
) -> Shared:
    """Return what the answers repeat and give away, and what of the test stands in the training data."""
    answers = _Answers(evaluation, config.passage_words)
    test = _Test(dataset, config.contamination_words)
    for batch in out.track(_training(dataset), total=dataset.count("train"), size=len):
        texts = records.text_of(batch)
        answers.look_through(texts)
        test.look_through(batch, texts)
    figures = {"memorized": answers.memorized(), "leaks": answers.leaks(), "contamination": test.figures()}
    return Shared(figures, answers.passages())


def _training(dataset: Dataset) -> Iterator[pa.RecordBatch]:
    """Yield the training conversations without those that were planted."""
    for batch in records.batches(dataset.shards("train")):
        yield batch.filter(pc.not_equal(pc.fill_null(batch.column("source"), ""), canaries.SOURCE))


class _Answers:
    """The model's answers: passages and personal data in them that the training data may hold."""

    def __init__(self, evaluation: Evaluation, words: int) -> None:
        table = pq.read_table(
            evaluation.file("answers.parquet"), columns=["id", "prompt", "reference", "answer"]
        )
        self._rows = table.filter(pc.is_valid(table["answer"])).to_pylist()
        self._texts = [row["answer"] for row in self._rows]
        self._given = [_given(row) for row in self._rows]
        self._passages = Passages(self._texts, words)
        self._words = words
        self._values = list(_values(self._texts))
        self._unseen = {value.text for value in self._values}
        self._seen: set[str] = set()

    def look_through(self, texts: Sequence[str]) -> None:
        self._passages.look_through(texts)
        for value in sorted(self._unseen):
            if any(value in text for text in texts):
                self._unseen.discard(value)
                self._seen.add(value)

    def memorized(self) -> dict[str, Any]:
        """The share of answers with a passage of the training data that was not asked for."""
        found = [passage.words for _, passage in self._copied()]
        return {
            **share(len(found), len(self._rows)),
            "words": self._words,
            "longest": max(found, default=0),
        }

    def passages(self) -> list[dict[str, Any]]:
        """The longest passages that answers repeat, each once."""
        shown: dict[str, dict[str, Any]] = {}
        for row, passage in sorted(self._copied(), key=lambda item: (-item[1].words, item[0])):
            text = self._passages.text(row, passage)
            shown.setdefault(text, {"id": self._rows[row]["id"], "words": passage.words, "text": text})
        return list(shown.values())[:SHOWN]

    def _copied(self) -> Iterator[tuple[int, Passage]]:
        """Yield (answer, passage) where the passage is in neither the answer's prompt nor its reference."""
        for row, passage in enumerate(self._passages.longest()):
            if passage.words and not self._asked_for(row, passage):
                yield row, passage

    def _asked_for(self, row: int, passage: Passage) -> bool:
        wanted = self._passages.text(row, passage)
        return f" {wanted} " in f" {' '.join(words_of(self._given[row]))} "

    def leaks(self) -> dict[str, Any]:
        """Personal data in answers by kind, and how much of it the training data hold, prompts left out."""
        own = [value for value in self._values if value.text not in self._given[value.row]]
        known = [value for value in own if value.text in self._seen]
        return {
            **share(len({value.row for value in own}), len(self._rows)),
            "values": len(own),
            "kinds": dict(sorted(Counter(value.kind for value in own).items())),
            "in_prompt_or_reference": len(self._values) - len(own),
            "in_training": len(known),
            "examples": sorted({mask(value.kind, value.text) for value in known})[:SHOWN],
        }


def _given(row: dict[str, Any]) -> str:
    """What the answer may rightly repeat: the prompt's messages and the reference."""
    said = [str(message.get("content") or "") for message in json.loads(row["prompt"])]
    return "\n".join([*said, row["reference"] or ""])


def _values(texts: Sequence[str]) -> Iterator[_Value]:
    if not texts:
        return
    suspects = suspicious(pa.array(texts, pa.string())).to_pylist()
    for row, (text, suspect) in enumerate(zip(texts, suspects, strict=True)):
        for span in find(text) if suspect else ():
            yield _Value(row, span.kind, text[span.start : span.end])


class _Test:
    """The test split: which of its conversations the training data hold, and which they touch."""

    def __init__(self, dataset: Dataset, words: int) -> None:
        batches = list(records.batches(dataset.shards("test")))
        texts = [text for batch in batches for text in records.text_of(batch)]
        self._conversations, self._prompts = [], []
        for batch in batches:
            prompts, whole = _plain(batch)
            self._prompts += prompts
            self._conversations += whole
        self._passages = Passages(texts, words)
        self._words = words
        self._same: set[str] = set()
        self._asked: set[str] = set()
        self._known = set(self._conversations), set(self._prompts)

    def look_through(self, batch: pa.RecordBatch, texts: Sequence[str]) -> None:
        prompts, whole = _plain(batch)
        self._same |= self._known[0].intersection(whole)
        self._asked |= self._known[1].intersection(prompts)
        self._passages.look_through(texts)

    def figures(self) -> dict[str, Any]:
        """How many test conversations stand in the training data: whole, their question, an n-gram, half."""
        covered = self._passages.covered()
        return {
            "words": self._words,
            "exact": share(_count(self._conversations, self._same), len(self._conversations)),
            "question": share(_count(self._prompts, self._asked), len(self._prompts)),
            "ngram": share(int((covered > 0).sum()), len(covered)),
            "half": share(int((covered >= 0.5).sum()), len(covered)),
        }


def _plain(batch: pa.RecordBatch) -> tuple[list[str], list[str]]:
    """Question and whole text of every conversation, in words alone."""
    asked = [" ".join(words_of(text)) for text in records.text_of(batch, ASKING)]
    said = [" ".join(words_of(text)) for text in records.text_of(batch, ANSWERING)]
    return asked, [f"{one}\n{other}" for one, other in zip(asked, said, strict=True)]


def _count(texts: Iterable[str], found: set[str]) -> int:
    return sum(text in found for text in texts)
