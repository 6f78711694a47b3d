"""Preferences: pairs, labelled answers and prompts as token ids, for the objectives beyond likelihood.

A prompt is the exact text that is generated from, tokenized as in ``chat``; an answer ends with the token
that ends a turn. Both answers of a pair follow the same prompt.

    preference   prompt_ids, chosen_ids, rejected_ids    from conversations with chosen and rejected
    feedback     prompt_ids, completion_ids, label       from labelled conversations; a pair gives one of each
    prompts      prompt_ids, prompt (text), answer       the last answer is the reference that rewards see

A chosen answer, or one labelled true, is learnt; a rejected one, or one labelled false, is made less likely
(of a reward model: scored higher and lower). Their tokens are counted apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline_lib import chat, records
from pipeline_lib.core.errors import DataError
from pipeline_lib.training.token_shards import ROWS_AT_ONCE, TokenWriter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline_lib.core.output import Output
    from pipeline_lib.kinds import Dataset
    from pipeline_lib.training.tokenize import TokenizeConfig

IDS = pa.list_(pa.int32())
NAMES = [("id", pa.string()), ("source", pa.string())]
SCHEMAS = {
    "preference": pa.schema([*NAMES, ("prompt_ids", IDS), ("chosen_ids", IDS), ("rejected_ids", IDS)]),
    "feedback": pa.schema([*NAMES, ("prompt_ids", IDS), ("completion_ids", IDS), ("label", pa.bool_())]),
    "prompts": pa.schema([*NAMES, ("prompt_ids", IDS), ("prompt", pa.string()), ("answer", pa.string())]),
}
ANSWERS = ("chosen_ids", "rejected_ids", "completion_ids")
COUNTED = {"preference": ("rejected_tokens",), "feedback": ("rejected_tokens",), "prompts": ()}
"""What is counted beside what every objective counts."""
Row = dict[str, Any]


class _UnfitError(Exception):
    """A conversation that the objective cannot use: (reason, detail)."""


def write_part(
    out: Output, config: TokenizeConfig, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, part: str
) -> dict[str, Any]:
    """Write one part's shards and what it drops; return what was read, kept, dropped and learnt.

    ConfigError where the tokenizer has no chat template.
    """
    chat.set_template(tokenizer, config.template)
    stops = set(chat.stop_ids(tokenizer))
    objective = config.objective
    with TokenWriter(out.path, part, SCHEMAS[objective], COUNTED[objective]) as writer:
        for batch in records.tracked(out, dataset, f"{part} conversations", part, ROWS_AT_ONCE):
            for row in batch.to_pylist():
                try:
                    whole = list(_items(tokenizer, row, objective))
                    fitting = [_fitting(item, config) for item in whole]
                except _UnfitError as unfit:
                    writer.drop(row["id"], *unfit.args)
                    continue
                writer.count(1)
                for item, before in zip(fitting, whole, strict=True):
                    _add(writer, {"source": row["source"], **item}, stops, truncated=item != before)
    return writer.stats()


def _add(writer: TokenWriter, item: Row, stops: set[int], *, truncated: bool) -> None:
    """Append an item, each of its answers a sequence with the prompt before it."""
    answers = {name: item[name] for name in ANSWERS if name in item}
    learnt = [ids for name, ids in answers.items() if _is_learnt(name, item)]
    lengths, prompt = [len(ids) for ids in answers.values()], len(item["prompt_ids"])
    taught, sequences = sum(map(len, learnt)), max(len(answers), 1)
    rejected = {"rejected_tokens": sum(lengths) - taught} if answers else {}
    writer.add(
        item,
        longest=prompt + max(lengths, default=0),
        sequences=sequences,
        tokens=sum(lengths) + prompt * sequences,
        learnt_tokens=taught,
        without_stop=any(not stops.intersection(ids) for ids in learnt),
        truncated=truncated,
        **rejected,
    )


def _is_learnt(name: str, row: Row) -> bool:
    """Return whether a row's answer of this name is to become likelier, and not less likely."""
    return name == "chosen_ids" or (name == "completion_ids" and bool(row["label"]))


def _items(tokenizer: PreTrainedTokenizerBase, row: Row, objective: str) -> Iterator[Row]:
    """Yield what one conversation gives the objective; _UnfitError where it gives nothing."""
    if objective == "prompts":
        yield _prompt(tokenizer, row)
        return
    paired = row["chosen"] is not None and row["rejected"] is not None
    if objective == "preference":
        if not paired:
            raise _UnfitError("not_a_pair", "it has no chosen and rejected answers")
        yield _pair(tokenizer, row)
    elif paired:
        pair = _pair(tokenizer, row)
        for side, label in (("chosen", True), ("rejected", False)):
            yield {
                "id": f"{row['id']}-{side}",
                "prompt_ids": pair["prompt_ids"],
                "completion_ids": pair[f"{side}_ids"],
                "label": label,
            }
    elif row["label"] is None:
        raise _UnfitError("no_label", "it has neither a label nor two answers")
    else:
        prompt, answer = _answered(tokenizer, row, row["messages"])
        yield {"id": row["id"], "prompt_ids": prompt, "completion_ids": answer, "label": row["label"]}


def _pair(tokenizer: PreTrainedTokenizerBase, row: Row) -> Row:
    sides = {}
    for side in ("chosen", "rejected"):
        if len(row[side]) != 1 or row[side][0]["role"] != "assistant":
            raise _UnfitError("not_one_answer", f"{side} is {len(row[side])} messages, not one answer")
        sides[side] = _answered(tokenizer, row, [*row["messages"], *row[side]])
    (prompt, chosen), (other, rejected) = sides["chosen"], sides["rejected"]
    if prompt != other:
        raise _UnfitError("two_prompts", "the chat template renders another prompt before each answer")
    if chosen == rejected:
        raise _UnfitError("equal_answers", "chosen and rejected are the same")
    return {"id": row["id"], "prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def _answered(
    tokenizer: PreTrainedTokenizerBase, row: Row, messages: list[Row]
) -> tuple[list[int], list[int]]:
    """Return the ids of everything before the last answer, and of that answer with its end token."""
    if not messages or messages[-1]["role"] != "assistant":
        raise _UnfitError("no_answer", "it does not end with an answer")
    tools = json.loads(row["tools"]) if row["tools"] else None
    try:
        cut = chat.pieces(tokenizer, messages, tools=tools, last_only=True)
    except chat.PromptDiffersError as error:
        raise _UnfitError("prompt_differs", str(error)) from error
    except DataError as error:
        raise _UnfitError("not_rendered", str(error)) from error
    if not cut or not cut[-1].learn:
        raise _UnfitError("nothing_to_learn", "no token of the last answer is left to learn")
    before, answer = chat.encode(tokenizer, [cut[:-1], cut[-1:]])
    return before.ids, answer.ids


def _prompt(tokenizer: PreTrainedTokenizerBase, row: Row) -> Row:
    messages, answer = row["messages"], ""
    if row["chosen"]:
        answer = row["chosen"][-1]["content"] or ""
    elif messages and messages[-1]["role"] == "assistant":
        messages, answer = messages[:-1], messages[-1]["content"] or ""
    if not messages or any(message["role"] == "text" for message in messages):
        raise _UnfitError("no_prompt", "a plain text, or nothing, stands before the answer")
    try:
        text = chat.render(tokenizer, messages, prompt=True)
        ids = chat.prompt_ids(tokenizer, [messages])[0]
    except DataError as error:
        raise _UnfitError("not_rendered", str(error)) from error
    return {"id": row["id"], "prompt_ids": ids, "prompt": text, "answer": answer}


def _fitting(item: Row, config: TokenizeConfig) -> Row:
    """Return the item if it is no longer than allowed; its answers are cut where the config says so."""
    answers = [name for name in ANSWERS if name in item]
    room = config.max_length - len(item["prompt_ids"])
    longest = max((len(item[name]) for name in answers), default=0)
    if longest <= room and room >= 1:
        return item
    if room < 1 or config.too_long == "drop":
        length = len(item["prompt_ids"]) + longest
        raise _UnfitError("too_long", f"{length} tokens, at most {config.max_length}")
    return {**item, **{name: item[name][:room] for name in answers}}
