"""Single messages, from every way of writing them down to one.

A *turn* is a message as a file has it: ``from``/``value`` or ``role``/``content``, content as text, null or a
list of typed parts, tool calls as OpenAI's list or as JSON text. Tools and tool calls come out as JSON text
of OpenAI's form, with the arguments as an object. ``shapes`` puts messages together to conversations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

Message = dict[str, str | None]

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "ipython": "tool",
    "text": "text",
}
_CALLING = ("function_call", "tool_call")
_REASONING = ("reasoning_content", "reasoning", "thinking")


class FormatError(ValueError):
    """A row, or a part of it, has not the form that its format asks for; says what is wrong with it."""


def conversation_of(value: object) -> list[Message]:
    """Return a list of turns (or its JSON text) as messages; FormatError where one cannot be read."""
    if isinstance(value, str):
        value = _parsed(value, "the list of messages")
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise FormatError("the messages are not a list")
    return [message_of(turn) for turn in value]


def message_of(turn: object) -> Message:
    """Return one turn as a message with the keys that it fills."""
    if not isinstance(turn, Mapping):
        raise FormatError(f"a message is a {type(turn).__name__}, not an object")
    said = turn.get("role") or turn.get("from")
    role = _ROLES.get(said.strip().lower()) if isinstance(said, str) else None
    if role is None:
        raise FormatError(f"a message has the role {str(said)[:40]!r}, which is not known")
    content = turn["content"] if "content" in turn else turn.get("value")
    if isinstance(content, str) and said not in _CALLING and len(turn) == 2:
        return {"role": role, "content": content}
    return _full(turn, role, content, said in _CALLING)


def _full(turn: Mapping[str, Any], role: str, content: object, is_call: bool) -> Message:
    parts = _typed(content) if isinstance(content, list) else {"text": text_of_value(content, "content")}
    calls: object = turn.get("tool_calls") or turn.get("function_call") or parts.get("tool_call")
    if is_call and not calls:
        calls, parts["text"] = parts["text"], ""
    reasoning = next((turn[key] for key in _REASONING if turn.get(key)), parts.get("reasoning"))
    message: Message = {"role": role, "content": parts.get("text") or ""}
    extras = {
        "name": turn.get("name"),
        "tool_calls": _calls_text(calls) if calls else None,
        "tool_call_id": turn.get("tool_call_id"),
        "reasoning": text_of_value(reasoning, "reasoning") or None,
    }
    return message | {key: str(value) for key, value in extras.items() if value is not None}


def _typed(parts: list[Any]) -> dict[str, Any]:
    """Return the texts of typed parts ({type, text or value}), joined by kind."""
    found: dict[str, list[str]] = {}
    for part in parts:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if not isinstance(part, Mapping):
            raise FormatError("a content part is neither text nor an object")
        kind = {"thinking": "reasoning"}.get(str(part.get("type")), str(part.get("type")))
        if kind not in ("text", "reasoning", "tool_call"):
            raise FormatError(f"a content part is of type {kind[:40]!r}; only text is read")
        value = next((part[key] for key in ("text", "value", kind, "thinking") if key in part), None)
        found.setdefault(kind, []).append(value if isinstance(value, str) else orjson.dumps(value).decode())
    calls = found.pop("tool_call", [])
    joined: dict[str, Any] = {kind: "\n".join(texts) for kind, texts in found.items()}
    if calls:
        joined["tool_call"] = [_parsed(call, "a tool call") for call in calls]
    return joined


def _calls_text(value: object) -> str:
    """Return tool calls as JSON text: [{"id"?, "type": "function", "function": {"name", "arguments"}}]."""
    calls = _parsed(value, "a tool call") if isinstance(value, str) else value
    calls = calls if isinstance(calls, list) else [calls]
    return _dumped([_call(call) for call in calls])


def _call(call: object) -> dict[str, Any]:
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(inner, Mapping) or not inner.get("name"):
        raise FormatError("a tool call has no name")
    arguments = inner.get("arguments", inner.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _parsed(arguments, "the arguments of a tool call") if arguments.strip() else {}
    identity = {"id": call["id"]} if call.get("id") and inner is not call else {}
    return {**identity, "type": "function", "function": {"name": inner["name"], "arguments": arguments}}


def tools_text(value: object) -> str | None:
    """Return tool schemas (a list, or its JSON text) as JSON text in OpenAI's form; None for no tools."""
    tools = _parsed(value, "tools") if isinstance(value, str) and value.strip() else value
    if not tools:
        return None
    tools = tools if isinstance(tools, list) else [tools]
    if not all(isinstance(tool, Mapping) for tool in tools):
        raise FormatError("tools is not a list of schemas")
    wrapped = [
        tool if "function" in tool or "name" not in tool else {"type": "function", "function": tool}
        for tool in tools
    ]
    return _dumped(wrapped)


def text_of_value(value: object, what: str) -> str:
    """Return a cell as text: null is empty, numbers are written out; FormatError for lists and objects."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return str(_typed(value).get("text") or "")
    raise FormatError(f"{what} is a {type(value).__name__}, not text")


def _parsed(text: str, what: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"{what} is not JSON: {text[:60]!r}") from error


def _dumped(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        raise FormatError(f"cannot be written as JSON: {error}") from error
