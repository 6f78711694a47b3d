"""Synthesis: which conversations a model is shown and asked for, and what its replies are worth.

An *order* is one conversation that is wanted: its sort, its number among those of the same seeds, and the
seeds. Orders, requests and ids depend on config and data alone, never on when a reply came.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from pipeline_lib import records
from pipeline_lib.core.output import Output
from pipeline_lib.kinds import Dataset
from pipeline_lib.records import Verdict

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_lib.completions import Reply
    from pipeline_lib.curation.augment import AugmentConfig, Sort

SOURCE = "synthetic"
FAMILY = "synthetic_family"
"""Metadata key of seeds and what was written after them: the id of the first of the seeds."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """One conversation that is wanted."""

    sort: Sort
    number: int
    seeds: tuple[Row, ...]
    family: str


def seeds_of(out: Output, config: AugmentConfig, conversations: Dataset) -> list[Row]:
    """Return the seeds in the order of a hash of their ids, which the config's seed changes."""

    def placed() -> Iterator[tuple[bytes, str, Row]]:
        for batch in records.tracked(out, conversations, "choosing seeds"):
            for row in batch.to_pylist():
                if _can_be_shown(row):
                    yield _place(config.seed, row["id"]), row["id"], row

    return [row for *_, row in heapq.nsmallest(config.seeds, placed(), key=lambda one: one[:2])]


def _place(seed: int, name: str) -> bytes:
    # Not the hash that `split` goes by: the seeds would be those that it holds out.
    return hashlib.sha256(f"augment:{seed}:{name}".encode()).digest()


def _can_be_shown(row: Row) -> bool:
    """Return whether a conversation is questions and answers in words, without pairs, labels or tools."""
    messages = row["messages"] or ()
    roles = {message["role"] for message in messages}
    plain = roles >= {"user", "assistant"} and roles <= {"system", "user", "assistant"}
    whole = all(message["content"] and not message["tool_calls"] for message in messages)
    return (
        plain and whole and not (row["chosen"] or row["rejected"] or row["tools"] or row["label"] is not None)
    )


def _groups(config: AugmentConfig, seeds: Sequence[Row]) -> list[Sequence[Row]]:
    """Return the seeds in groups that one new conversation is written after; one by one where none is."""
    size = config.examples if config.conversations else 1
    return [seeds[begin : begin + size] for begin in range(0, len(seeds), size)]


def families(batch: pa.RecordBatch, config: AugmentConfig, seeds: Sequence[Row]) -> pa.RecordBatch:
    """Return the rows with the family of those that are seeds in their metadata."""
    import pyarrow as pa

    known = {row["id"]: group[0]["id"] for group in _groups(config, seeds) for row in group}
    ids, metadata = batch.column("id").to_pylist(), batch.column("metadata").to_pylist()
    if known.keys().isdisjoint(ids):
        return batch
    marked = [
        orjson.dumps({**orjson.loads(text or "{}"), FAMILY: known[name]}).decode() if name in known else text
        for name, text in zip(ids, metadata, strict=True)
    ]
    place = batch.schema.get_field_index("metadata")
    return batch.set_column(place, records.SCHEMA.field("metadata"), pa.array(marked, pa.string()))


def orders(config: AugmentConfig, seeds: Sequence[Row]) -> list[Order]:
    """Return everything that is wanted, group of seeds by group."""
    return [order for group in _groups(config, seeds) for order in _orders(config, group)]


def _orders(config: AugmentConfig, group: Sequence[Row]) -> Iterator[Order]:
    family = str(group[0]["id"])
    for seed in group:
        for number in range(config.paraphrases):
            yield Order("paraphrase", number, (seed,), family)
    for number in range(config.conversations):
        yield Order("conversation", number, tuple(group), family)


def request(config: AugmentConfig, order: Order) -> Mapping[str, Any]:
    """Return the body of a chat completion that asks for one order."""
    shown = "\n\n".join(_shown(seed) for seed in order.seeds)
    system = [{"role": "system", "content": config.system}] if config.system else []
    return {
        "model": config.model,
        "messages": [*system, {"role": "user", "content": config.prompt(order.sort, shown)}],
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "seed": config.seed + order.number,
    }


def _shown(seed: Row) -> str:
    messages = [{"role": one["role"], "content": one["content"]} for one in seed["messages"]]
    return orjson.dumps({"messages": messages}).decode()


def synthetic(config: AugmentConfig, order: Order, reply: Reply) -> tuple[Row, Verdict]:
    """Return an order's conversation with its marks, and why it is dropped where the reply holds none."""
    messages, verdict = _conversation(reply)
    seeds = [str(seed["id"]) for seed in order.seeds]
    name = orjson.dumps([config.model, order.sort, order.number, seeds, messages])
    first = orjson.loads(order.seeds[0]["metadata"] or "{}")
    marks = {
        "synthetic": order.sort,
        "model": config.model,
        "seeds": seeds,
        FAMILY: order.family,
    }
    row = {
        "id": hashlib.sha256(name).hexdigest()[:32],
        "source": SOURCE,
        "messages": messages,
        "metadata": orjson.dumps({**first, **marks}).decode(),
    }
    return row, verdict


def _conversation(reply: Reply) -> tuple[list[Row], Verdict]:
    """Return the messages in a reply; the reply itself and a reason where it holds none."""
    raw = [records.message("assistant", reply.text)]
    if reply.finish == "length":
        return raw, ("cut_off_reply", "the reply ends at max_tokens")
    if not reply.text.strip():
        return raw, ("no_reply", f"the model said nothing (finish_reason {reply.finish})")
    try:
        # Models put the object into a code fence or a sentence now and then.
        value = orjson.loads(reply.text[reply.text.index("{") : reply.text.rindex("}") + 1])
    except (ValueError, orjson.JSONDecodeError):
        return raw, ("malformed_reply", "the reply holds no JSON object")
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not all(map(_is_message, messages)) or len(messages) < 2:
        return raw, ("malformed_reply", "the reply's object has no list of messages with role and content")
    return [records.message(one["role"], one["content"]) for one in messages], None


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("role") in ("system", "user", "assistant")
        and isinstance(value.get("content"), str)
    )
