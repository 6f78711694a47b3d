"""Batches of conversations as the rules see them, and the verdict on each.

Plain texts (one message of role ``text``) go to the rules of ``web``, answers to those of
``instruct``, and where the config says so also to those of ``web``. The stage ``filter`` calls
``verdicts``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_lib import records
from pipeline_lib.curation.quality import instruct, web
from pipeline_lib.curation.quality.instruct import Talk, Turn
from pipeline_lib.curation.quality.limits import InstructLimits, WebLimits, number_of
from pipeline_lib.curation.quality.ngrams import variety
from pipeline_lib.curation.quality.tokens import tokenise
from pipeline_lib.records import Verdict

CountTokens = Callable[[Sequence[str]], list[int]]
"""Gives the length of each text in tokens."""


class Message(NamedTuple):
    """What the rules need of a message."""

    role: str
    content: str
    calls: bool


def verdicts(
    batch: pa.RecordBatch, answers: InstructLimits, texts: WebLimits, count: CountTokens | None = None
) -> list[Verdict]:
    """Return for each conversation of a batch the (reason, detail) of its drop, or None where it is kept.

    Limits in tokens hold where ``count`` counts them.
    """
    plain = records.plain_texts(batch)
    paired = np.asarray(pc.or_(pc.is_valid(batch.column("chosen")), pc.is_valid(batch.column("rejected"))))
    counted = count if answers.counts_tokens else None
    # A plain text alone has no turns; of it nothing is asked but scores and tokens.
    asked = np.full(len(plain), True) if answers.scores or counted else paired | ~plain
    judged: list[Verdict] = [None] * len(plain)
    for place, talk in zip(
        np.flatnonzero(asked), _talks(records.select(batch, asked), answers, counted), strict=True
    ):
        judged[place] = instruct.judge(talk, answers)
    undecided = np.array([verdict is None for verdict in judged], np.bool_)
    if texts.web_rules != "none":
        _judge_pages(judged, batch, undecided & plain, "text", texts)
    if texts.web_rules == "all":
        _judge_pages(judged, batch, undecided & ~plain, "assistant", texts)
    return judged


def _judge_pages(
    judged: list[Verdict], batch: pa.RecordBatch, wanted: npt.NDArray[np.bool_], role: str, limits: WebLimits
) -> None:
    """Put in the web rules' verdict on the wanted conversations that have a message of this role."""
    if not wanted.any():
        return
    said = records.text_of(records.select(batch, wanted), (role,))
    pages = {
        place: page
        for place, page in zip(np.flatnonzero(wanted), said, strict=True)
        if page or role == "text"
    }
    found = web.judge(web.measure(list(pages.values()), limits), limits)
    for place, verdict in zip(pages, found, strict=True):
        judged[place] = verdict


def _messages(batch: pa.RecordBatch, column: str) -> list[list[Message]]:
    lists = batch.column(column)
    rows: list[list[Message]] = [[] for _ in range(batch.num_rows)]
    flat = lists.flatten()
    fields = (
        flat.field("role"),
        pc.fill_null(flat.field("content"), ""),
        pc.is_valid(flat.field("tool_calls")),
    )
    columns = (field.to_pylist() for field in fields)
    for parent, *values in zip(pc.list_parent_indices(lists).to_pylist(), *columns, strict=True):
        rows[parent].append(Message(*values))
    return rows


def _talks(batch: pa.RecordBatch, answers: InstructLimits, count: CountTokens | None) -> list[Talk]:
    messages = (_messages(batch, column) for column in ("messages", "chosen", "rejected"))
    labels = batch.column("label").to_pylist()
    tools = pc.is_valid(batch.column("tools")).to_pylist()
    talks = [_talk(*row) for row in zip(*messages, labels, tools, strict=True)]
    if answers.min_distinct_trigrams is not None or answers.max_word_share is not None:
        talks = _with_varieties(talks)
    if answers.scores:
        talks = _with_scores(talks, batch.column("metadata").to_pylist(), answers)
    return _with_tokens(talks, batch, count) if count else talks


def _with_varieties(talks: list[Talk]) -> list[Talk]:
    found = iter(variety(tokenise([turn.answer for talk in talks for turn in talk.turns], split_cjk=True)))
    return [
        replace(talk, turns=[replace(turn, variety=next(found)) for turn in talk.turns]) for talk in talks
    ]


def _with_scores(talks: list[Talk], metadata: list[str | None], answers: InstructLimits) -> list[Talk]:
    given = [json.loads(text or "{}") for text in metadata]
    scores = [
        {name: number for name in answers.scores if (number := number_of(row.get(name))) is not None}
        for row in given
    ]
    return [replace(talk, scores=found) for talk, found in zip(talks, scores, strict=True)]


def _with_tokens(talks: list[Talk], batch: pa.RecordBatch, count: CountTokens) -> list[Talk]:
    said = records.text_of(
        batch, columns=("messages", "chosen"), fields=("content", "tool_calls", "reasoning")
    )
    lengths = count(said)
    answers = iter(count([turn.answer for talk in talks for turn in talk.turns]))
    return [
        replace(talk, tokens=length, turns=[replace(turn, tokens=next(answers)) for turn in talk.turns])
        for talk, length in zip(talks, lengths, strict=True)
    ]


def _talk(
    messages: list[Message], chosen: list[Message], rejected: list[Message], label: bool | None, tools: bool
) -> Talk:
    equal = bool(chosen) and chosen == rejected
    turns = _turns([*messages, *chosen], tools)
    worse = _turns([*messages, *rejected], tools)[sum(message.role == "assistant" for message in messages) :]
    return Talk(turns[:-1], turns[-1:] + worse, equal) if label is False else Talk(turns, worse, equal)


def _turns(messages: list[Message], tools: bool) -> list[Turn]:
    turns, prompt = [], None
    for message in messages:
        if message.role == "user":
            prompt = message.content
        elif message.role == "assistant":
            turns.append(Turn(prompt, message.content, message.calls, tools=tools))
    return turns
