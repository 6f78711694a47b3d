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
    messages = _messages(batch, "messages")
    talks = _talks(batch, messages, answers)
    if answers.scores:
        talks = _with_scores(talks, batch.column("metadata").to_pylist(), answers)
    if count and answers.counts_tokens:
        talks = _with_tokens(talks, batch, count)
    judged = [instruct.judge(talk, answers) for talk in talks]
    if texts.web_rules == "none":
        return judged
    open_rows = [i for i, verdict in enumerate(judged) if verdict is None]
    pages = [(i, page) for i in open_rows if (page := _page(messages[i], texts)) is not None]
    measures = web.measure([page for _, page in pages], texts)
    for (i, _), measured in zip(pages, measures, strict=True):
        judged[i] = web.judge(measured, texts)
    return judged


def _page(messages: Sequence[Message], texts: WebLimits) -> str | None:
    """Return the text that the web rules are to judge, if any."""
    if [message.role for message in messages] == ["text"]:
        return messages[0].content
    answers = [message.content for message in messages if message.role == "assistant" and message.content]
    return "\n\n".join(answers) if answers and texts.web_rules == "all" else None


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


def _talks(batch: pa.RecordBatch, messages: list[list[Message]], answers: InstructLimits) -> list[Talk]:
    chosen, rejected = _messages(batch, "chosen"), _messages(batch, "rejected")
    labels = batch.column("label").to_pylist()
    tools = pc.is_valid(batch.column("tools")).to_pylist()
    talks = [_talk(*row) for row in zip(messages, chosen, rejected, labels, tools, strict=True)]
    if answers.min_distinct_trigrams is None and answers.max_word_share is None:
        return talks
    varieties = iter(
        variety(tokenise([turn.answer for talk in talks for turn in talk.turns], split_cjk=True))
    )
    return [
        replace(talk, turns=[replace(turn, variety=next(varieties)) for turn in talk.turns]) for talk in talks
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
