"""Formats: what a raw row of a file means, as a conversation.

A *row* is what a reader found at one place of a file; a *shape* is the function that turns a row of one
format into conversations (one, or one per path through a message tree). Conversations here are
dictionaries with ``messages`` and, where the row has them, ``tools``, ``chosen``, ``rejected``, ``label`` and
``metadata`` (all further columns). ``turns`` reads single messages, ``readers`` gives the rows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from pipeline_lib.curation.turns import FormatError, Message, conversation_of, text_of_value, tools_text

Format = Literal[
    "alpaca",
    "dolly",
    "sharegpt",
    "openai",
    "prompt_completion",
    "preference",
    "feedback",
    "text",
    "oasst_tree",
    "oasst_messages",
    "prompt",
]
FORMATS: tuple[str, ...] = get_args(Format)
Row = Mapping[str, Any]
Conversation = dict[str, Any]

_TURNS = ("messages", "conversations", "conversation")
_PROMPTS = ("prompt", "instruction", "question", "query", "input", "problem")
_ANSWERS = ("completion", "output", "answer", "response", "solution")
_LABELS = ("label", "kto_tag")
_TEXTS = ("text", "content")
_SIDES = (("chosen", "rejected"), ("chosen_messages", "rejected_messages"))
COLUMNS = frozenset(
    {*_TURNS, *_PROMPTS, *_ANSWERS, *_LABELS, *_TEXTS, *itertools.chain(*_SIDES)}
    | {"system", "tools", "history", "context", "role", "replies"}
    | {"message_id", "parent_id", "message_tree_id"}
)
"""Every name of a column that a format knows; what other columns hold is metadata."""
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
_TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def detect(row: object) -> Format | None:
    """Return the format that a row has by its keys, or None where it has none that is known."""
    if isinstance(row, str):
        return "text"
    if not isinstance(row, Mapping):
        return None
    given = {key: value for key, value in row.items() if value is not None}
    return next((name for name, has in _DETECTORS if has(given)), None)


def shape(name: str) -> Callable[[Any], list[Conversation]]:
    """Return the function that turns a row of the named format into conversations.

    The function raises FormatError, with what is missing, for a row that has another form.
    """
    return _SHAPES[name]


def alpaca(row: Row) -> list[Conversation]:
    """Read instruction, input, output (or response), system and history ([[question, answer], …])."""
    _require(row, "instruction")
    answer = _present(row, ("output", "response"))
    messages = [*_system(row), *_history(row.get("history"))]
    messages.append(_user(_joined(row.get("instruction"), row.get("input"))))
    messages.append(_assistant(row[answer]))
    # Both may stand there (CodeAlpaca has each answer twice); one that differs stays in the metadata.
    answers = [key for key in ("output", "response") if row.get(key) in (None, row[answer])]
    # What stands below the instruction stays in the metadata too, so that `format` can tell them apart again.
    given = [] if row.get("input") else ["input"]
    return [_conversation(row, messages, ["instruction", *given, *answers, "system", "history"])]


def dolly(row: Row) -> list[Conversation]:
    """Read instruction, context and response."""
    _require(row, "instruction", "response")
    messages = [_user(_joined(row["instruction"], row.get("context"))), _assistant(row["response"])]
    given = [] if row.get("context") else ["context"]
    return [_conversation(row, messages, ["instruction", *given, "response"])]


def turns(row: Row) -> list[Conversation]:
    """Read a list of messages, as from/value (ShareGPT) or role/content (OpenAI), with system and tools."""
    key = _present(row, _TURNS)
    messages = [*_system(row), *conversation_of(row[key])]
    return [_conversation(row, messages, [key, "system", "tools"])]


def prompt_completion(row: Row) -> list[Conversation]:
    """Read a prompt and its completion, each a string or a list of messages."""
    prompt, answer = _present(row, _PROMPTS), _present(row, _ANSWERS)
    messages = [*_system(row), *_side(row[prompt], "user"), *_side(row[answer], "assistant")]
    return [_conversation(row, messages, [prompt, answer, "system", "tools"])]


def prompt_only(row: Row) -> list[Conversation]:
    """Read a prompt without an answer (never detected, only where ``format: prompt`` says so)."""
    prompt = _present(row, (*_PROMPTS, *_TURNS))
    return [_conversation(row, [*_system(row), *_side(row[prompt], "user")], [prompt, "system", "tools"])]


def preference(row: Row) -> list[Conversation]:
    """Read a prompt with a chosen and a rejected answer; what both sides begin with belongs to the prompt."""
    _require(row)
    sides = next((pair for pair in _SIDES if pair[0] in row), _SIDES[0])
    _require(row, *sides)
    asked = next((key for key in (*_TURNS, *_PROMPTS) if row.get(key)), None)
    before = [*_system(row), *(_side(_prompt(row, asked), "user") if asked else [])]
    chosen, rejected = (_side(row[side], "assistant") for side in sides)
    shared = _shared(chosen, rejected)
    prompt = chosen[:shared] if before and chosen[: len(before)] == before else before + chosen[:shared]
    if not prompt:
        raise FormatError("has no prompt: chosen and rejected begin differently")
    used = [
        *sides,
        "system",
        "tools",
        *([asked] if asked else []),
        *(["input"] if asked == "instruction" and not row.get("input") else []),
    ]
    pair = {"chosen": chosen[shared:], "rejected": rejected[shared:]}
    return [_conversation(row, prompt, used) | pair]


def feedback(row: Row) -> list[Conversation]:
    """Read a conversation with a label: true for a wanted answer, false for an unwanted one."""
    label = _present(row, _LABELS)
    verdict = _TRUTHS.get(str(row[label]).strip().lower())
    if verdict is None:
        raise FormatError(f"{label} is {str(row[label])[:40]!r}, neither true nor false")
    bare = {key: value for key, value in row.items() if key != label}
    inner: Callable[[Row], list[Conversation]] = (
        turns if any(key in row for key in _TURNS) else prompt_completion
    )
    if "instruction" in row:
        inner = alpaca
    return [conversation | {"label": verdict} for conversation in inner(bare)]


def text(row: Row | str) -> list[Conversation]:
    """Read a plain text: one message of role ``text``."""
    if isinstance(row, str):
        return [{"messages": [{"role": "text", "content": row}]}]
    key = _present(row, _TEXTS)
    return [_conversation(row, [{"role": "text", "content": text_of_value(row[key], key)}], [key])]


def message_tree(row: Row) -> list[Conversation]:
    """Read an Open-Assistant tree: every path from the first prompt to a last reply is a conversation."""
    root = row.get("prompt", row) if isinstance(row, Mapping) else None
    if not isinstance(root, Mapping):
        raise FormatError("is not a message with replies")
    group = str(row.get("message_tree_id") or root.get("message_id") or "")
    used = ("prompt", "message_tree_id", "message_id", "parent_id", "role", "text", "replies")
    rest = {key: value for key, value in row.items() if key not in used}
    return [
        {"messages": path, "metadata": {**rest, "group": group, "message_id": last}}
        for path, last in _paths(root)
    ]


def flat_message(row: Row) -> list[Conversation]:
    """Read an Open-Assistant prompt that stands alone; a reply is refused, as its question is elsewhere."""
    _require(row, "message_id", "text", "role")
    if row.get("parent_id"):
        raise FormatError(
            f"is a reply to message {row['parent_id']}; use the tree export, which holds the questions"
        )
    message = conversation_of([{"role": row["role"], "content": row["text"]}])
    conversation = _conversation(row, message, ["text", "role", "parent_id"])
    conversation["metadata"]["group"] = str(row.get("message_tree_id") or row["message_id"])
    return [conversation]


def _paths(root: Row) -> Iterator[tuple[list[Message], str]]:
    # A stack, not recursion: a tree may be deeper than Python's stack.
    stack: list[tuple[Row, list[Message]]] = [(root, [])]
    while stack:
        node, before = stack.pop()
        if not isinstance(node, Mapping):
            raise FormatError("a reply is not a message")
        path = [*before, *conversation_of([{"role": node.get("role"), "content": node.get("text")}])]
        replies = node.get("replies") or []
        if not replies:
            yield path, str(node.get("message_id", ""))
        stack.extend((reply, path) for reply in reversed(replies))


def _conversation(row: Row, messages: list[Message], used: Sequence[str]) -> Conversation:
    metadata = {key: value for key, value in row.items() if key not in used}
    conversation: Conversation = {"messages": messages, "metadata": metadata}
    if "tools" in used and row.get("tools"):
        conversation["tools"] = tools_text(row["tools"])
    return conversation


def _side(value: object, role: str) -> list[Message]:
    """Return one side of a pair as messages: a string is one message, or a Human and Assistant dialogue."""
    if isinstance(value, Mapping):
        return conversation_of([value])
    if isinstance(value, str) and _SPEAKER.match(value):
        parts = _SPEAKER.split(value)
        return [
            {"role": "user" if who == "Human" else "assistant", "content": said.strip()}
            for who, said in zip(parts[1::2], parts[2::2], strict=True)
        ]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return conversation_of(value)
    return [{"role": role, "content": text_of_value(value, role)}]


def _prompt(row: Row, key: str) -> object:
    return _joined(row[key], row.get("input")) if key == "instruction" else row[key]


def _shared(chosen: list[Message], rejected: list[Message]) -> int:
    """Return how many messages both sides begin with, leaving each at least its answer."""
    most = min(len(chosen), len(rejected)) - 1
    return next((i for i in range(most) if chosen[i] != rejected[i]), max(most, 0))


def _history(value: object) -> Iterator[Message]:
    for pair in value if isinstance(value, list) else []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise FormatError("history is not a list of [question, answer]")
        yield from (_user(text_of_value(pair[0], "history")), _assistant(pair[1]))


def _system(row: Row) -> list[Message]:
    said = text_of_value(row.get("system"), "system")
    return [{"role": "system", "content": said}] if said else []


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(value: object) -> Message:
    return {"role": "assistant", "content": text_of_value(value, "answer")}


def _joined(first: object, second: object) -> str:
    parts = (text_of_value(first, "instruction"), text_of_value(second, "input"))
    return "\n".join(part for part in parts if part)


def _require(row: Row, *keys: str) -> None:
    if not isinstance(row, Mapping):
        raise FormatError(f"is a {type(row).__name__}, not an object with keys")
    missing = [key for key in keys if row.get(key) is None]
    if missing:
        raise FormatError(f"has no {' and no '.join(missing)}")


def _present(row: Row, keys: Sequence[str]) -> str:
    if not isinstance(row, Mapping):
        raise FormatError(f"is a {type(row).__name__}, not an object with keys")
    for key in keys:
        if row.get(key) is not None:
            return key
    raise FormatError(f"has none of {', '.join(keys)}")


def _any(row: Row, keys: Sequence[str]) -> bool:
    return any(key in row for key in keys)


def _is_labelled(row: Row) -> bool:
    label = next((row[key] for key in _LABELS if key in row), None)
    answered = _any(row, _TURNS) or (_any(row, _PROMPTS) and _any(row, _ANSWERS))
    return answered and str(label).strip().lower() in _TRUTHS


def _has_replies(message: object) -> bool:
    return isinstance(message, Mapping) and all(key in message for key in ("text", "role", "replies"))


def _is_openai(row: Row) -> bool:
    value = next((row[key] for key in _TURNS if key in row), None)
    first = value[0] if isinstance(value, list) and value else None
    return (isinstance(first, Mapping) and "role" in first) or ("messages" in row and not first)


_DETECTORS: tuple[tuple[Format, Callable[[Row], bool]], ...] = (
    ("preference", lambda row: any(all(side in row for side in pair) for pair in _SIDES)),
    ("feedback", _is_labelled),
    ("openai", _is_openai),
    ("sharegpt", lambda row: _any(row, _TURNS)),
    ("oasst_tree", lambda row: _has_replies(row.get("prompt")) or _has_replies(row)),
    ("oasst_messages", lambda row: all(key in row for key in ("message_id", "role", "text"))),
    ("dolly", lambda row: all(key in row for key in ("instruction", "context", "response"))),
    ("alpaca", lambda row: "instruction" in row and _any(row, ("output", "response"))),
    ("prompt_completion", lambda row: _any(row, _PROMPTS) and _any(row, _ANSWERS)),
    ("text", lambda row: any(isinstance(row.get(key), str) for key in _TEXTS)),
)
_SHAPES: dict[str, Callable[[Any], list[Conversation]]] = {
    "alpaca": alpaca,
    "dolly": dolly,
    "sharegpt": turns,
    "openai": turns,
    "prompt_completion": prompt_completion,
    "prompt": prompt_only,
    "preference": preference,
    "feedback": feedback,
    "text": text,
    "oasst_tree": message_tree,
    "oasst_messages": flat_message,
}
