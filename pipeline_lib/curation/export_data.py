"""Datasets out of the store: conversations as Alpaca, ShareGPT or OpenAI rows, in JSON Lines.

A row says what its conversation says, so that reading it back (``shapes``) gives the same messages, tools,
pair and label, and the further columns that its source had. A conversation that a format cannot hold is left
out and counted with the reason. Sources: Alpaca and ShareGPT as LLaMA-Factory's ``data/README.md`` has them,
pairs and labels as TRL's ``dataset_formats.md`` has them, messages as OpenAI's chat format.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import orjson

from pipeline_lib.core.errors import ConfigError, DataError
from pipeline_lib.core.progress import track
from pipeline_lib.curation import shapes
from pipeline_lib.curation.fates import parts_of
from pipeline_lib.curation.format import SAID, input_in, split_input
from pipeline_lib.curation.reading import PLACES
from pipeline_lib.kinds import Dataset

Row = dict[str, Any]
Form = Literal["openai", "sharegpt", "alpaca"]
FORMS: tuple[Form, ...] = get_args(Form)

_FROM = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
# What a reader of these formats gives a meaning to; a source's own column of that name is put aside.
_MEANT = frozenset(
    "messages conversations conversation system tools chosen rejected chosen_messages rejected_messages "
    "label kto_tag instruction".split()
)
_MEANT_BY_ALPACA = _MEANT | {"input", "output", "response", "history", "prompt"}


class UnfitError(ValueError):
    """A conversation that a format cannot hold; says why, in one or two words."""


@dataclass
class Written:
    """What was written of one part: its files, how many conversations each holds, how many were left out."""

    part: str
    files: dict[Path, int] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    """Conversations that the format cannot hold, by the reason."""

    @property
    def conversations(self) -> int:
        """The number of conversations that were written."""
        return sum(self.files.values())

    def as_json(self) -> dict[str, Any]:
        """Return the account as JSON values."""
        files = [{"path": str(path), "conversations": count} for path, count in self.files.items()]
        return {"part": self.part, "files": files, "left_out": dict(sorted(self.left_out.items()))}

    def lines(self) -> Iterator[str]:
        """Yield the account, one line for each file and one for what was left out."""
        yield from (f"{count:>9,} conversations  {path}" for path, count in self.files.items())
        yield from (f"{self.part}: left out {n:,} ({why})" for why, n in sorted(self.left_out.items()))


def export_data(dataset: Dataset, form: Form, out: Path, part: str | None = None) -> list[Written]:
    """Write the parts of a dataset (all but the dropped, or the one named) and return what was written.

    ``out`` is a directory that gets ``<part>.jsonl`` for each part (where pairs, labelled answers and plain
    conversations are mixed, a file for each of these kinds), or a file ``….jsonl`` for one part of one kind.
    Raises ConfigError where the dataset has no such part or more would go to one file, DataError where the
    format can hold none of the conversations.
    """
    known = parts_of(dataset)
    parts = [part] if part else [name for name in known if name != "dropped"]
    if unknown := [name for name in parts if name not in known]:
        raise ConfigError(f"{dataset.address} has no part {unknown[0]!r}; it has {', '.join(known)}")
    single = out.suffix in (".jsonl", ".json")
    if single and len(parts) > 1:
        raise ConfigError(f"{out}: one file cannot hold {', '.join(parts)}; name a directory, or one --part")
    try:
        written = [_write(dataset, form, name, out, single=single) for name in parts]
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    if not any(one.conversations for one in written):
        why = ", ".join(sorted({reason for one in written for reason in one.left_out})) or "it is empty"
        raise DataError(f"{dataset.address}: nothing of it can be written as {form} ({why})")
    return written


def _write(dataset: Dataset, form: Form, part: str, out: Path, *, single: bool) -> Written:
    from pipeline_lib import records

    done, counts = Written(part), Counter[str]()
    folder = out.parent if single else out
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch, ExitStack() as opened:
        files: dict[str, BinaryIO] = {}
        for row in track(records.rows(dataset.shards(part)), f"export-data: {part}", dataset.count(part)):
            try:
                line = orjson.dumps(row_of(row, form), option=orjson.OPT_APPEND_NEWLINE)
            except UnfitError as why:
                done.left_out[str(why)] += 1
                continue
            kind = _kind_of(row)
            if kind not in files:
                files[kind] = opened.enter_context(Path(scratch, kind).open("wb"))
            files[kind].write(line)
            counts[kind] += 1
        opened.close()
        if single and len(files) > 1:
            raise ConfigError(f"{out}: one file cannot hold {', '.join(sorted(files))}; name a directory")
        for kind, count in sorted(counts.items()):
            name = part if len(files) == 1 else f"{part}-{kind}"
            path = out if single else out / f"{name}.jsonl"
            done.files[Path(scratch, kind).replace(path)] = count
    return done


def _kind_of(row: Mapping[str, Any]) -> str:
    if row.get("chosen"):
        return "pairs"
    return "conversations" if row.get("label") is None else "feedback"


def row_of(conversation: Mapping[str, Any], form: Form) -> Row:
    """Return a conversation of the store as a row of a format; UnfitError where the format cannot hold it.

    What `format` put under Alpaca's prompt or a template is written as it was before.
    """
    messages = conversation["messages"] or []
    if not messages:
        raise UnfitError("no messages")
    if any(message["role"] == "text" for message in messages):
        raise UnfitError("plain text")
    if bool(conversation.get("chosen")) != bool(conversation.get("rejected")):
        raise UnfitError("half a pair")
    metadata = orjson.loads(conversation.get("metadata") or "{}")
    given = {key: value for key, value in metadata.items() if key not in PLACES}
    given |= {key: conversation[key] for key in ("reason", "detail") if conversation.get(key)}
    # As it was before a prompt was put around it.
    messages = given.pop(SAID, messages)
    row = _ROWS[form](conversation, messages, given)
    if conversation.get("label") is not None:
        row["label"] = conversation["label"]
    return _with_columns(row, given, _MEANT_BY_ALPACA if form == "alpaca" else _MEANT)


def _with_columns(row: Row, given: Mapping[str, Any], meant: frozenset[str]) -> Row:
    """Return the row with a source's further columns, renamed where they would change what it means."""
    aside = {f"column.{key}" if key in meant or key in row else key: value for key, value in given.items()}
    whole = {**row, **aside}
    if shapes.detect(whole) == shapes.detect(row):
        return whole
    return {**row, **{key if "." in key else f"column.{key}": value for key, value in aside.items()}}


def _openai(conversation: Mapping[str, Any], messages: Sequence[Row], given: Row) -> Row:
    row: Row = {"messages": [_openai_message(message) for message in messages]}
    if conversation.get("chosen"):
        row = {"prompt": row["messages"]}
        for side in ("chosen", "rejected"):
            row[side] = [_openai_message(message) for message in conversation[side]]
    return row | ({"tools": orjson.loads(conversation["tools"])} if conversation.get("tools") else {})


def _openai_message(message: Mapping[str, Any]) -> Row:
    turn: Row = {"role": message["role"], "content": message["content"] or ""}
    if message.get("tool_calls"):
        turn["content"] = message["content"] or None
        turn["tool_calls"] = [_with_text_arguments(call) for call in orjson.loads(message["tool_calls"])]
    return turn | _extras(message)


def _with_text_arguments(call: Row) -> Row:
    """Return a tool call as OpenAI has it, its arguments as JSON text."""
    function = call["function"]
    return {**call, "function": {**function, "arguments": orjson.dumps(function["arguments"]).decode()}}


def _extras(message: Mapping[str, Any]) -> Row:
    names = {"name": "name", "tool_call_id": "tool_call_id", "reasoning": "reasoning_content"}
    return {ours: message[key] for key, ours in names.items() if message.get(key) is not None}


def _sharegpt(conversation: Mapping[str, Any], messages: Sequence[Row], given: Row) -> Row:
    system, rest = _system_apart(messages)
    row = system | {"conversations": [_sharegpt_turn(message) for message in rest]}
    for side in ("chosen", "rejected") if conversation.get("chosen") else ():
        turns = [_sharegpt_turn(message) for message in conversation[side]]
        row[side] = turns[0] if len(turns) == 1 else turns
    return row | ({"tools": conversation["tools"]} if conversation.get("tools") else {})


def _sharegpt_turn(message: Mapping[str, Any]) -> Row:
    calls = orjson.loads(message["tool_calls"]) if message.get("tool_calls") else []
    extras = _extras(message)
    if calls and not message["content"] and not any("id" in call for call in calls):
        # The form that LLaMA-Factory reads: the call itself, or the list of several.
        plain = [call["function"] for call in calls]
        text = orjson.dumps(plain[0] if len(plain) == 1 else plain).decode()
        return {"from": "function_call", "value": text, **extras}
    turn: Row = {"from": _FROM[message["role"]], "value": message["content"] or "", **extras}
    return turn | ({"tool_calls": calls} if calls else {})


def _system_apart(messages: Sequence[Row]) -> tuple[Row, Sequence[Row]]:
    """Return the system message under its own key, where it comes first and is text alone, and the rest."""
    first = messages[0]
    if first["role"] == "system" and first["content"] and _is_plain(first):
        return {"system": first["content"]}, messages[1:]
    return {}, messages


def _is_plain(message: Mapping[str, Any]) -> bool:
    return not message.get("tool_calls") and not _extras(message)


def _alpaca(conversation: Mapping[str, Any], messages: Sequence[Row], given: Row) -> Row:
    system, turns = _system_apart(messages)
    answers = [conversation[side] for side in ("chosen", "rejected")] if conversation.get("chosen") else []
    said = [*turns, *(message for answer in answers for message in answer)]
    if conversation.get("tools") or not all(map(_is_plain, said)):
        raise UnfitError("tools, names or reasoning")
    asked = 1 if answers else 2
    roles = [message["role"] for message in turns]
    if roles != (["user"] if answers else ["user", "assistant"] * max(1, len(roles) // 2)):
        raise UnfitError("not question and answer in turn")
    if any([message["role"] for message in answer] != ["assistant"] for answer in answers):
        raise UnfitError("not one answer on each side")
    *before, question = turns[: len(turns) - asked + 1]
    instruction, text = split_input(question["content"] or "", input_in(given))
    if instruction and text:
        given.pop("input", None)
    else:
        instruction, text = question["content"] or "", ""
    row = {"instruction": instruction, "input": text, **system}
    if answers and not instruction:
        raise UnfitError("an empty prompt")
    if answers:
        return row | {"chosen": answers[0][0]["content"], "rejected": answers[1][0]["content"]}
    contents = [message["content"] or "" for message in before]
    pairs = [list(pair) for pair in zip(contents[::2], contents[1::2], strict=True)]
    return row | {"output": turns[-1]["content"] or ""} | ({"history": pairs} if pairs else {})


_ROWS: dict[Form, Callable[[Mapping[str, Any], Sequence[Row], Row], Row]] = {
    "openai": _openai,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
}
